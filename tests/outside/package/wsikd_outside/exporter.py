"""Class of every field as a JSON file."""

import json

from wsikd.grade.exports import Exporter, aside


def write(grade_map, path, *, slide=None):
    """Write a grade map.

    Args:
        grade_map: see ``wsikd.grade.grademap.GradeMap``.
        path: the file to write: ``aside`` makes it whole, or not at all.
        slide: the open slide, for exporters that show its pixels.
    """
    grades = grade_map.grade_hw[grade_map.valid_hw].tolist()
    boxes = grade_map.boxes().tolist()
    content = {
        "slide": grade_map.slide.name,
        "mpp": grade_map.mpp,
        "fields": [
            {"box": box, "class": grade_map.classes[grade]}
            for box, grade in zip(boxes, grades, strict=True)
        ],
    }
    with aside(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


EXPORTER = Exporter("grades.json", write)
