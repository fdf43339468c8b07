"""Eight host devices, programs quick to compile, no silent broadcasting of ranks."""

import os

import jax

# The tests spend their time on compiling small programs. XLA's old emitter, without
# optimizations and in one piece, needs a seventh of it. `XLA_FLAGS= pytest` tests what
# users compile. Newer versions have one emitter only, and abort at flags they lack.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    os.environ.setdefault("XLA_FLAGS", QUICK)
jax.config.update("jax_disable_most_optimizations", os.environ.get("XLA_FLAGS") != "")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
