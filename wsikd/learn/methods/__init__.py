"""Distillation methods: each turns a batch into loss terms."""
