"""The law of the sampler that belongs to a bound: every path of the reverse process from all masks to a text.

A masked position i leaves the mask for token v at the rate c_{i,v}(z, t) / t, by its schedule lambda_v mu_v: c = mu under
uniform masking. With h_z(t) the probability that what is masked in z at time t becomes what it is in x, m masks in z and
E_z(t) = exp int_0^t (sum c - m) / s ds, all of it smooth,

    h_z(t) E_z(t) = int_0^1 u^{m-1} f_z(ut) du,    f_z(s) = E_z(s) sum_{i masked} c_{i,x_i}(z, s) h_{z+i}(s),

and h of no masks is 1. So the law is known to the accuracy of a quadrature, whatever the order in which tokens are revealed.
"""

from __future__ import annotations

import numpy as np

from .masks import time_nodes
from .tabular import all_sequences


def sampler_law(rates_DTZLV: np.ndarray, vocabulary: int) -> np.ndarray:
    """(D, S) probability of each sequence.

    Args:
        rates_DTZLV: c at the T nodes of :func:`~.masks.time_nodes`, or T = 1 where it does not depend on the time.
        vocabulary: V; the last axis may go on with what is no token.
    """
    count, nodes, _, length, _ = rates_DTZLV.shape
    t_T = time_nodes(nodes)[0] if nodes > 1 else np.array([0.5])
    until_K = np.append(t_T, 1.0)  # h is wanted at the nodes, and at the start of the reverse process
    sequences_SL = all_sequences(length, vocabulary)
    size, places_L = len(sequences_SL), (vocabulary + 1) ** np.arange(length)[::-1]
    h_DKS = {(False,) * length: np.ones((count, nodes + 1, size))}
    subsets = sorted(map(tuple, all_sequences(length, 2).astype(bool).tolist()), key=sum)
    for masked in subsets[1:]:
        hidden_M = np.flatnonzero(masked)
        state_S = np.where(masked, vocabulary, sequences_SL) @ places_L
        rates_DTSMV = rates_DTZLV[:, :, state_S][:, :, :, hidden_M]
        excess_DTS = (rates_DTSMV.sum((-2, -1)) - len(hidden_M)) / t_T[:, None]
        e_DKS = np.exp(until_K[:, None] * np.einsum("kj,djs->dks", _moments(t_T, until_K, 1), excess_DTS))
        flow_DTS = np.zeros((count, nodes, size))
        for place, position in enumerate(hidden_M):
            token_S1 = sequences_SL[:, position, None]
            own_DTS = np.take_along_axis(rates_DTSMV[:, :, :, place], token_S1[None, None], axis=-1)[..., 0]
            after = tuple(now and i != position for i, now in enumerate(masked))
            flow_DTS += own_DTS * h_DKS[after][:, :nodes]
        moments_KT = _moments(t_T, until_K, len(hidden_M))
        h_DKS[masked] = np.einsum("kj,djs->dks", moments_KT, e_DKS[:, :nodes] * flow_DTS) / e_DKS
    return h_DKS[(True,) * length][:, -1]


def _moments(t_T: np.ndarray, until_K: np.ndarray, power: int) -> np.ndarray:
    """(K, T) int_0^1 u^(power-1) l_j(u t_k) du of the polynomials l_j that are 1 at node j and 0 at the others."""
    u_Q, weight_Q = time_nodes(len(t_T) + power)
    s_KQ = until_K[:, None] * u_Q
    others = ~np.eye(len(t_T), dtype=bool)
    gaps_TT = np.where(others, t_T[:, None] - t_T, 1.0)
    lagrange_KQT = np.where(others, (s_KQ[..., None, None] - t_T) / gaps_TT, 1.0).prod(-1)
    return np.einsum("q,kqt->kt", weight_Q * u_Q ** (power - 1), lagrange_KQT)
