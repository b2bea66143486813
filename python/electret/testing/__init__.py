"""The contract that every model must keep, as checks that anyone can run on their own model."""

from electret.testing.comparison import ContractError, assert_close
from electret.testing.contract import (
    check_batch,
    check_field_response,
    check_forces,
    check_model,
    check_permutation,
    check_precision,
    check_rotation,
    check_save_load,
    check_stress,
    check_total_charge,
    check_training_gradients,
    check_translation,
)
from electret.testing.emulation import emulated_device
from electret.testing.harmonics import real_harmonics, rotation_of_multipoles
from electret.testing.self_consistency import (
    check_constant_fermi_level,
    check_responses,
    check_self_consistency,
    check_warm_start,
)

__all__ = [
    "ContractError",
    "assert_close",
    "check_batch",
    "check_constant_fermi_level",
    "check_field_response",
    "check_forces",
    "check_model",
    "check_permutation",
    "check_precision",
    "check_responses",
    "check_rotation",
    "check_save_load",
    "check_self_consistency",
    "check_stress",
    "check_total_charge",
    "check_training_gradients",
    "check_translation",
    "check_warm_start",
    "emulated_device",
    "real_harmonics",
    "rotation_of_multipoles",
]
