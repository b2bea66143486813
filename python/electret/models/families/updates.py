"""Response of the density of an atom to the potential: the updates Delta(h, v) of `fixed_point`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from electret.models.base import Structure
from electret.models.config import BackboneConfig, FixedPointConfig
from electret.models.hosted import mace_blocks, o3
from electret.models.readouts import (
    NodeReadout,
    ScalarReadout,
    block_to_electret,
    e3nn_to_electret,
    electret_to_e3nn,
)
from electret.models.start.elements import flow_scales, orders, polarizabilities, response_scales
from electret.models.start.statistics import Statistics

__all__ = ["ManyBodyUpdate", "OneBodyUpdate", "channel_irreps", "split_channels"]

INITIAL_RESPONSE = 0.05
"""Isotropic response of a fresh model, e Å^l per normalised feature."""

INITIAL_GATE = 1.0
"""Logit of the charge gate of a fresh model."""

CLOSED = -8.0
"""Smallest logit of the charge gate: with none at all the Fermi level would be undefined."""

NOMINAL_SUSCEPTIBILITY = -0.05
"""Change of every charge with the Fermi level (e/eV) where charges do not respond to the potential, so that
they add up to the total charge; the Fermi level is then a multiplier without physical meaning."""

Parameters = dict[str, torch.Tensor]


def channel_irreps(channels: int, max_l: int) -> o3.Irreps:
    """`channels` of every order up to `max_l` with the parity of multipoles."""
    return o3.Irreps([(channels, (l, (-1) ** l)) for l in range(max_l + 1)])


def split_channels(values: torch.Tensor, channels: int, max_l: int) -> list[torch.Tensor]:
    """`[n_atoms, channels, 2l+1]` for each l of a tensor in e3nn's layout."""
    blocks, first = [], 0
    for l in range(max_l + 1):
        width = channels * (2 * l + 1)
        blocks.append(values[:, first : first + width].reshape(-1, channels, 2 * l + 1))
        first += width
    return blocks


class PotentialEmbedding(torch.nn.Module):
    """u = W v (+ W' h), `[n_atoms, channels]` of each order, from normalised features of the potential.

    With `species` every element has a W of its own.
    """

    def __init__(self, options: FixedPointConfig, n_widths: int, max_l: int, n_elements: int) -> None:
        super().__init__()
        self.max_l, self.channels = max_l, options.channels
        copies = n_elements if options.potential_embedding == "species" else 1
        self.weights = torch.nn.Parameter(
            torch.randn(copies, max_l + 1, options.channels, n_widths) / n_widths**0.5
        )
        self.from_features = (
            torch.nn.Parameter(torch.randn(max_l + 1, options.channels) / options.channels**0.5)
            if options.potential_embedding == "features"
            else None
        )

    def forward(
        self, v: torch.Tensor, elements: torch.Tensor, features: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """u `[n_atoms, channels, 2l+1]` for each l of v `[n_atoms, n_widths, n_lm]` (e3nn's order)."""
        weights = self.weights[elements] if len(self.weights) > 1 else self.weights
        blocks = []
        for l in range(self.max_l + 1):
            block = v[:, :, l * l : (l + 1) ** 2]  # [n_atoms, n_widths, 2l+1]
            u = weights[:, l] @ block
            if self.from_features is not None:
                u = u + self.from_features[l][None, :, None] * features[l]
            blocks.append(u)
        return blocks

    def applied(self, elements: torch.Tensor, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """h W of each l, `[n_atoms, channels, n_widths, 2l+1]`; its sum with v is <h, u> of the channels."""
        weights = self.weights[elements] if len(self.weights) > 1 else self.weights
        return [weights[:, l, :, :, None] * features[l][:, :, None] for l in range(self.max_l + 1)]

    def invariants(
        self, applied: list[torch.Tensor], v: torch.Tensor, features: list[torch.Tensor]
    ) -> torch.Tensor:
        """s = <h, u> `[n_atoms, channels, max_l + 1]` of v `[n_atoms, n_widths, n_lm]` in the order of
        components that h has."""
        values = []
        for l, block in enumerate(applied):
            own = v[:, :, l * l : (l + 1) ** 2].flatten(start_dim=1)
            s = (block.flatten(start_dim=2) @ own[:, :, None]).squeeze(2)
            if self.from_features is not None:
                s = s + self.from_features[l] * features[l].square().sum(dim=2)
            values.append(s)
        return torch.stack(values, dim=2)


def _chained(in_s: torch.Tensor, applied: list[torch.Tensor]) -> torch.Tensor:
    """dDelta/dv `[n_atoms, n_lm, n_widths, n_features_lm]` of dDelta/ds `[n_atoms, features_max_l + 1, n_lm,
    channels]` and h W for each l."""
    blocks = [
        (in_s[:, l] @ block.flatten(start_dim=2)).unflatten(2, block.shape[2:])
        for l, block in enumerate(applied)
    ]
    return torch.cat(blocks, dim=3)


class _Response(torch.nn.Module):
    """Delta = W_species (h s'), s = <h, u> per channel and order, and the isotropic response.

    Nonlinear functions act on the invariants s only.
    """

    def __init__(
        self, options: FixedPointConfig, max_l: int, features_max_l: int, n_widths: int, n_elements: int
    ) -> None:
        super().__init__()
        self.max_l, self.features_max_l = max_l, features_max_l
        self.channels, self.kind = options.channels, options.nonlinearity
        n_scalars = options.channels * (features_max_l + 1)
        self.output = torch.nn.Parameter(
            0.1 * torch.randn(n_elements, max_l + 1, options.channels, features_max_l + 1) / n_scalars**0.5
        )
        if self.kind != "none":
            self.mlp = torch.nn.Sequential(
                torch.nn.Linear(n_scalars, options.hidden),
                torch.nn.SiLU(),
                torch.nn.Linear(options.hidden, n_scalars),
            )

    def forward(
        self, features: list[torch.Tensor], u: list[torch.Tensor], elements: torch.Tensor
    ) -> torch.Tensor:
        """`[n_atoms, n_lm]` in e3nn's order."""
        s = torch.stack(
            [(h * w).sum(dim=2) for h, w in zip(features, u, strict=False)], dim=2
        )  # [n_atoms, channels, features_max_l + 1]
        if self.kind != "none":
            nonlinear = self.mlp(s.flatten(start_dim=1)).reshape(s.shape)
            s = s + nonlinear if self.kind == "residual_mlp" else nonlinear
        weights = (self.output[elements] * s[:, None]).sum(dim=3)  # [n_atoms, max_l + 1, channels]
        blocks = [weights[:, l, None] @ features[l] for l in range(self.max_l + 1)]
        return torch.cat(blocks, dim=2).squeeze(1)

    def slopes(self, features: list[torch.Tensor], elements: torch.Tensor) -> torch.Tensor:
        """dDelta/ds' `[n_atoms, features_max_l + 1, n_lm, channels]`, in the order of components that the
        features have."""
        h = torch.cat(features[: self.max_l + 1], dim=2).transpose(1, 2)  # [n_atoms, n_lm, channels]
        output = self.output.permute(0, 3, 1, 2)[:, :, orders(self.max_l)]  # [n_elements, l', n_lm, channels]
        return output[elements] * h[:, None]

    def linearised(self, slopes: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Delta `[n_atoms, n_lm]` and dDelta/ds, as the slopes are, at s `[n_atoms, channels,
        features_max_l + 1]`."""
        through = slopes.permute(0, 2, 3, 1).flatten(start_dim=2)  # [n_atoms, n_lm, channels * orders]
        outputs = s.flatten(start_dim=1)
        if self.kind == "none":
            return (through @ outputs[:, :, None]).squeeze(2), slopes
        first, last = self.mlp[0], self.mlp[2]
        assert isinstance(first, torch.nn.Linear)
        assert isinstance(last, torch.nn.Linear)
        hidden = first(outputs)
        sigmoid = torch.sigmoid(hidden)
        slope = sigmoid * (1.0 + hidden * (1.0 - sigmoid))  # of silu
        in_s = ((through @ last.weight) * slope[:, None]) @ first.weight
        nonlinear = last(hidden * sigmoid)
        if self.kind == "residual_mlp":
            nonlinear, in_s = nonlinear + outputs, in_s + through
        delta = (through @ nonlinear[:, :, None]).squeeze(2)
        return delta, in_s.unflatten(2, s.shape[1:]).permute(0, 3, 1, 2)


class OneBodyUpdate(torch.nn.Module):
    """The potential at an atom changes its own multipoles, given features of its surroundings.

    Args:
        layer_irreps: of the backbone.
        options: of the family.
        max_l: highest multipole.
        features_max_l: highest order of the potential features.
        n_widths: receiver widths.
        n_elements: of the model.
    """

    local = True
    """The derivative of the density in the potential is block diagonal."""
    _diagonals: torch.Tensor  # [order, n_lm, n_features_lm], one where a component of that order meets itself

    def __init__(
        self,
        layer_irreps: Sequence[o3.Irreps],
        options: FixedPointConfig,
        max_l: int,
        features_max_l: int,
        n_widths: int,
        n_elements: int,
    ) -> None:
        super().__init__()
        self.max_l, self.features_max_l, self.channels = max_l, features_max_l, options.channels
        self.affine = options.nonlinearity == "none"
        self.charges_respond = options.responding == "all" and not options.flow
        self.highest = max(max_l, features_max_l)
        irreps = channel_irreps(options.channels, self.highest)
        self.features = NodeReadout(layer_irreps, irreps, f"potential features up to l={self.highest}")
        self.embedding = PotentialEmbedding(options, n_widths, features_max_l, n_elements)
        self.response = _Response(options, max_l, features_max_l, n_widths, n_elements)
        common = min(max_l, features_max_l) + 1
        self.isotropic = (
            ScalarReadout(layer_irreps, common * n_widths, options.hidden, "the response")
            if options.isotropic_response
            else None
        )
        gated = options.charge_gate and self.charges_respond
        self.gate = ScalarReadout(layer_irreps, 1, options.hidden, "the charge gate") if gated else None
        self.gate_bias = torch.nn.Parameter(torch.full((n_elements,), INITIAL_GATE))
        self.isotropic_bias = torch.nn.Parameter(torch.full((n_elements, common * n_widths), -1.0))
        diagonal = torch.eye((max_l + 1) ** 2, (features_max_l + 1) ** 2)
        per_order = [diagonal * (torch.tensor(orders(max_l)) == l)[:, None] for l in range(common)]
        self.register_buffer("_diagonals", torch.stack(per_order), persistent=False)

    def start_from(self, statistics: Statistics, unit_field: torch.Tensor) -> None:
        """Gives a fresh model responses of the size of the data's: charges and dipoles from the labelled
        polarisabilities where there are any, else all from the spread of the labelled charges.

        Args:
            statistics: of the training data.
            unit_field: normalised features of a field of 1 V/Å, `[n_widths]`.
        """
        scales = response_scales(statistics)[:, None].repeat(1, self.highest + 1)  # [n_elements, orders]
        softplus = torch.nn.functional.softplus
        with torch.no_grad():
            if statistics.susceptibility is not None:
                flow = flow_scales(statistics)
                scales[:, 0] = flow if self.gate is None else 1.0
                gate = torch.sigmoid(self.gate_bias) * flow.sqrt()
                self.gate_bias.copy_(torch.logit(gate))
            if statistics.polarizability is not None and self.features_max_l > 0:
                fresh = INITIAL_RESPONSE * softplus(self.isotropic_bias[0, 0]) * unit_field.sum()
                scales[:, 1] = polarizabilities(statistics) / fresh
            self.response.output.mul_(scales[:, : self.max_l + 1, None, None])
            own = scales[:, : min(self.max_l, self.features_max_l) + 1]
            own = own.repeat_interleave(len(unit_field), dim=1)
            self.isotropic_bias.copy_(torch.log(torch.expm1(softplus(self.isotropic_bias) * own)))

    def parameters_of(self, structure: Structure, features: Sequence[torch.Tensor]) -> Parameters:
        """`update_features [n_atoms, irreps]`, `gate [n_atoms]` (0 to 1), `isotropic [n_atoms, l, n_widths]`
        (not positive)."""
        found = {"update_features": self.features(features), "elements": structure.elements}
        if self.gate is not None:
            raw = self.gate(features)[:, 0] + self.gate_bias[structure.elements]
            found["gate"] = torch.sigmoid(raw.clamp(min=CLOSED))
        if self.isotropic is not None:
            raw = self.isotropic(features) + self.isotropic_bias[structure.elements]
            n_widths = self.embedding.weights.shape[3]
            # A higher potential draws electrons: charges and dipoles respond against it.
            response = -INITIAL_RESPONSE * torch.nn.functional.softplus(raw)
            found["isotropic"] = response.reshape(len(raw), -1, n_widths)
        return found

    def forward(self, parameters: Parameters, v: torch.Tensor) -> torch.Tensor:
        """Delta `[n_atoms, n_lm]` for normalised features `[n_atoms, n_widths, n_features_lm]`."""
        v = self._gated(parameters, v, dim=2)
        features = split_channels(parameters["update_features"], self.channels, self.highest)
        u = self._potential(parameters, v, features)
        delta = e3nn_to_electret(self.response(features, u, parameters["elements"]), self.max_l)
        if "isotropic" in parameters:
            delta = delta + isotropic_part(parameters["isotropic"], v, self.max_l)
        return self._gated(parameters, delta, dim=1)

    def _gated(self, parameters: Parameters, values: torch.Tensor, dim: int) -> torch.Tensor:
        """Potentials or multipoles, components on dimension `dim`, with the part of the charge that the gate
        lets through; zero where charges do not respond, as a constant potential does not act on dipoles."""
        gate = parameters.get("gate")
        if self.charges_respond and gate is None:
            return values
        first = values.narrow(dim, 0, 1)
        if gate is None or not self.charges_respond:
            first = torch.zeros_like(first)
        else:
            first = first * gate.reshape(-1, *[1] * dim)
        return torch.cat([first, values.narrow(dim, 1, values.shape[dim] - 1)], dim=dim)

    def straight(self, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Delta at no potential `[n_atoms, n_lm]` and dDelta/dv `[n_atoms, n_lm, n_widths, n_features_lm]` of
        an `affine` update, in the graph of the parameters."""
        elements = parameters["elements"]
        blocks = split_channels(parameters["update_features"], self.channels, self.highest)
        features = [block_to_electret(block, l) for l, block in enumerate(blocks)]
        applied = self.embedding.applied(elements, features)
        derivative = _chained(self.response.slopes(features, elements), applied)
        derivative = self._completed(parameters, derivative)
        nothing = derivative.new_zeros(len(derivative), *derivative.shape[2:])
        constant = self.embedding.from_features is not None
        return self(parameters, nothing) if constant else torch.zeros_like(derivative[:, :, 0, 0]), derivative

    def _completed(self, parameters: Parameters, derivative: torch.Tensor) -> torch.Tensor:
        """Derivative of the whole update: of the response, the isotropic one, and the charge gate."""
        if "isotropic" in parameters:
            alpha = parameters["isotropic"].transpose(1, 2) @ self._diagonals.flatten(start_dim=1)
            derivative = derivative + alpha.unflatten(2, self._diagonals.shape[1:]).transpose(1, 2)
        charge = parameters.get("gate")
        if not self.charges_respond:
            charge = derivative.new_zeros(len(derivative))
        if charge is None:
            return derivative
        # Stands before the charges of Delta and before the potential of charges in v.
        column = torch.cat([charge[:, None], torch.ones_like(derivative[:, 0, 0, 1:])], dim=1)
        row = torch.cat([charge[:, None], torch.ones_like(derivative[:, 1:, 0, 0])], dim=1)
        return derivative * (row[:, :, None, None] * column[:, None, None])

    def linearised(self, parameters: Parameters, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Delta `[n_atoms, n_lm]` and dDelta/dv `[n_atoms, n_lm, n_widths, n_features_lm]` at `[n_atoms,
        n_widths, n_features_lm]`, without a graph; only where the update is `local`."""
        with torch.no_grad():
            elements = parameters["elements"]
            blocks = split_channels(parameters["update_features"], self.channels, self.highest)
            features = [block_to_electret(block, l) for l, block in enumerate(blocks)]
            applied = self.embedding.applied(elements, features)
            seen = self._gated(parameters, v, dim=2)
            s = self.embedding.invariants(applied, seen, features)
            delta, in_s = self.response.linearised(self.response.slopes(features, elements), s)
            if "isotropic" in parameters:
                delta = delta + isotropic_part(parameters["isotropic"], seen, self.max_l)
            return self._gated(parameters, delta, dim=1), self._completed(parameters, _chained(in_s, applied))

    @property
    def charge_per_level(self) -> float:
        """Change of every charge with the Fermi level beside that through the potential, e/eV."""
        return 0.0 if self.charges_respond else NOMINAL_SUSCEPTIBILITY

    def _potential(
        self, parameters: Parameters, v: torch.Tensor, features: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """u `[n_atoms, channels, 2l+1]` for each l."""
        theirs = electret_to_e3nn(v, self.features_max_l)
        return self.embedding(theirs, parameters["elements"], features)


class ManyBodyUpdate(OneBodyUpdate):
    """The potential at an atom changes the multipoles of its neighbours too.

    The embedded potential joins the features, goes through one more interaction (edges up to l = 2) and
    product basis of MACE, and the result takes the place of u in the one-body update.
    """

    local = False
    EDGE_MAX_L = 2
    CORRELATION = 2

    def __init__(
        self,
        layer_irreps: Sequence[o3.Irreps],
        options: FixedPointConfig,
        max_l: int,
        features_max_l: int,
        n_widths: int,
        n_elements: int,
        backbone: BackboneConfig,
        avg_num_neighbors: float,
    ) -> None:
        super().__init__(layer_irreps, options, max_l, features_max_l, n_widths, n_elements)
        self.affine = False
        self.n_elements = n_elements
        irreps = channel_irreps(options.channels, self.highest)
        edges = o3.Irreps.spherical_harmonics(self.EDGE_MAX_L)
        self.harmonics = o3.SphericalHarmonics(edges, normalize=True, normalization="component")
        self.radial = mace_blocks.RadialEmbeddingBlock(
            r_max=backbone.r_max,
            num_bessel=backbone.num_radial_basis,
            num_polynomial_cutoff=backbone.num_cutoff_basis,
        )
        attributes = o3.Irreps(f"{n_elements}x0e")
        messages = o3.Irreps(
            [(options.channels, (l, (-1) ** l)) for l in range(max(self.EDGE_MAX_L, self.highest) + 1)]
        )
        self.interaction = mace_blocks.RealAgnosticInteractionBlock(
            node_attrs_irreps=attributes,
            node_feats_irreps=irreps,
            edge_attrs_irreps=edges,
            edge_feats_irreps=o3.Irreps(f"{backbone.num_radial_basis}x0e"),
            target_irreps=messages,
            hidden_irreps=irreps,
            avg_num_neighbors=avg_num_neighbors,
            radial_MLP=[options.hidden],
        )
        self.product = mace_blocks.EquivariantProductBasisBlock(
            node_feats_irreps=messages,
            target_irreps=irreps,
            correlation=self.CORRELATION,
            use_sc=False,
            num_elements=n_elements,
        )

    def parameters_of(self, structure: Structure, features: Sequence[torch.Tensor]) -> Parameters:
        """Parameters of the one-body update, and `edge_harmonics`, `edge_radial` and `edge_index` of the
        batch."""
        found = super().parameters_of(structure, features)
        vectors = structure.edge_vectors
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        radial, _ = self.radial(lengths, None, None, None)
        return {
            **found,
            "edge_harmonics": self.harmonics(vectors),
            "edge_radial": radial,
            "edge_index": structure.graph.edge_index,
        }

    def _potential(
        self, parameters: Parameters, v: torch.Tensor, features: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        u = super()._potential(parameters, v, features)
        joined = [h + u[l] if l < len(u) else h for l, h in enumerate(features)]
        attributes = torch.nn.functional.one_hot(parameters["elements"], self.n_elements).to(v.dtype)
        messages, _ = self.interaction(
            attributes,
            torch.cat([block.flatten(start_dim=1) for block in joined], dim=1),
            parameters["edge_harmonics"],
            parameters["edge_radial"],
            parameters["edge_index"],
        )
        mixed = self.product(messages, None, attributes)
        return split_channels(mixed, self.channels, self.highest)[: self.features_max_l + 1]


def isotropic_part(coefficients: torch.Tensor, v: torch.Tensor, max_l: int) -> torch.Tensor:
    """sum_n alpha_ln v_nlm, `[n_atoms, n_lm]`, of coefficients `[n_atoms, l, n_widths]`."""
    blocks = []
    for l in range(max_l + 1):
        if l < coefficients.shape[1] and l * l < v.shape[2]:
            block = v[:, :, l * l : (l + 1) ** 2]
            blocks.append(coefficients[:, l, None] @ block)
        else:
            blocks.append(v.new_zeros(len(v), 1, 2 * l + 1))
    return torch.cat(blocks, dim=2).squeeze(1)
