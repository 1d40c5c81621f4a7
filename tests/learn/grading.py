"""Settings of a method that grades patches, from what a YAML file would hold."""

from wsikd.learn.engine.configurations import model_of


def grading(content):
    return model_of(content["method"]).model_validate(content)
