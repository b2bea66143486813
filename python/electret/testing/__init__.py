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
from electret.testing.harmonics import real_harmonics, rotation_of_multipoles

__all__ = [
    "ContractError",
    "assert_close",
    "check_batch",
    "check_field_response",
    "check_forces",
    "check_model",
    "check_permutation",
    "check_precision",
    "check_rotation",
    "check_save_load",
    "check_stress",
    "check_total_charge",
    "check_training_gradients",
    "check_translation",
    "real_harmonics",
    "rotation_of_multipoles",
]
