"""Distillation methods: each turns a batch into loss terms."""

METHODS: dict[str, str] = {
    "supervised": "wsikd.learn.methods.supervised:Supervised",
    "at_plus": "wsikd.learn.methods.at_plus:AtPlus",
    "hdkd": "wsikd.learn.methods.hdkd:Hdkd",
}
