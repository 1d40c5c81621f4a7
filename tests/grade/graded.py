"""Grading a slide and writing its results, one after the other."""

from wsikd.grade.runs.results import begin_slide


def infer_slide(*arguments, **options):
    """The slide's row, and whether it was made now."""
    return begin_slide(*arguments, **options)()
