"""Reads a study's runs back, judges whether distillation works here, and writes the report.

It may import kd.training, kd.data, kd.models, kd.methods, kd.config and the small modules at the
top of kd; never kd.sweeps.
"""
