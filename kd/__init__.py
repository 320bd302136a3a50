"""kd: does knowledge distillation work here, and if not, why not?"""
