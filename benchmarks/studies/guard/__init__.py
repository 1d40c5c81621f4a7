"""Which score shows that a slide is unlike those that a student was trained on."""
