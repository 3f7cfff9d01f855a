"""One step of every primary cell in NumPy, float64, written from the reference (cells.md, sections 1 to 5 and 8) line by line.

`P[name]` are the parameters of one affine map, `(W, U, b)`; `pre` is W x + U h + b. Nothing here uses torch or our cells.
"""

import numpy as np


def sigma(a):
    return 1 / (1 + np.exp(-a))


def cumax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return np.cumsum(e / e.sum(-1, keepdims=True), -1)


def pre(P, name, x, h):
    W, U, b = P[name]
    return x @ W.T + h @ U.T + b


# -- gates (1.2, 1.4): pre-activations by name -> factor of the old memory, factor of the candidate


def free(a, s):
    return s["forget"](a["forget"]), s["input"](a["input"])


def coupled(a, s):
    f = s["forget"](a["forget"])
    return f, 1 - f


def janet(a, s):
    return sigma(a["forget"]), 1 - sigma(a["forget"] - 1.0)


def refine(a, s):
    f, r = s["forget"](a["forget"]), s["refine"](a["refine"])
    g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
    return g, 1 - g


def ordered(a, s):
    f = cumax(a["forget"])
    return f, 1 - f


def ordered_refine(a, s):
    f, r = cumax(a["forget"]), sigma(a["refine"])
    g = (1 - 2 * r) * f**2 + 2 * r * f
    return g, 1 - g


def ordered_master(a, s, chunk=1):
    mf, mi = cumax(a["master_forget"]), 1 - cumax(a["master_input"])
    mf, mi = np.repeat(mf, chunk, -1), np.repeat(mi, chunk, -1)
    w = mf * mi
    f = sigma(a["forget"])
    i = 1 - f
    return f * w + (mf - w), i * w + (mi - w)


def master(a, s, chunk=1):
    mf, mi = sigma(a["master_forget"]), sigma(a["master_input"])
    mf, mi = np.repeat(mf, chunk, -1), np.repeat(mi, chunk, -1)
    w = mf * mi
    f = sigma(a["forget"])
    i = 1 - f
    return f * w + (mf - w), i * w + (mi - w)


def static(a, s):
    keep = sigma(a["theta"])
    return keep, 1 - keep


# -- the KAF squash (5.1, 5.2)


def kaf(alpha, edge):
    D = alpha.shape[1]
    d = -edge + 2 * edge * np.arange(D) / (D - 1)
    delta = d[1] - d[0]
    gamma = 0.5 / (2 * delta) ** 2

    def squash(s):
        mixed = np.zeros_like(s)
        for i in range(D):
            mixed = mixed + alpha[:, i] * np.exp(-gamma * (s - d[i]) ** 2)
        return sigma(0.5 * mixed + 0.5 * s)

    return squash


# -- topologies (1.1, 2.2, 3.1, 4.1, 8.1)


def lstm(P, x, state, gate, s):
    h, c = state
    keep, write = gate({name: pre(P, name, x, h) for name in P["inputs"]}, s)
    new = keep * c + write * np.tanh(pre(P, "candidate", x, h))
    return s["output"](pre(P, "output", x, h)) * np.tanh(new), new


def peephole_lstm(P, x, state, gate, s):
    h, c = state
    f = sigma(pre(P, "forget", x, h) + P["peepholes"]["forget"] * c)
    i = sigma(pre(P, "input", x, h) + P["peepholes"]["input"] * c)
    new = f * c + i * np.tanh(pre(P, "candidate", x, h))
    o = sigma(pre(P, "output", x, h) + P["peepholes"]["output"] * new)
    return o * np.tanh(new), new


def gru_after(P, x, state, gate, s):
    (h,) = state
    rho = s["reset"](pre(P, "reset", x, h))
    W, U, b = P["candidate"]
    n = np.tanh(x @ W.T + b + rho * (h @ U.T + P["bias_h"]))
    keep, write = gate({name: pre(P, name, x, h) for name in P["inputs"]}, s)
    return (keep * h + write * n,)


def gru_before(P, x, state, gate, s):
    (h,) = state
    rho = s["reset"](pre(P, "reset", x, h))
    W, U, b = P["candidate"]
    n = np.tanh(x @ W.T + (rho * h) @ U.T + b)
    keep, write = gate({name: pre(P, name, x, h) for name in P["inputs"]}, s)
    return (keep * h + write * n,)


def gated_rnn(P, x, state, gate, s):
    (h,) = state
    a = {name: pre(P, name, x, h) for name in P["inputs"]} | {"theta": P.get("theta")}
    keep, write = gate(a, s)
    return (keep * h + write * np.tanh(pre(P, "candidate", x, h)),)


def memoryless(P, x, state, gate, s):
    return (np.tanh(x @ P["weight_x"].T + P["bias"]),)


def nru(P, x, state, k, use_relu, reduce, feed_x):
    h, m = state
    M = m.shape[1]
    act = (lambda a: np.maximum(a, 0)) if use_relu else (lambda a: a)
    new = np.maximum(np.concatenate([x, h, m], 1) @ P["W_h"].T + P["b"], 0)
    q = np.concatenate([new, m, x] if feed_x else [new, m], 1)
    alpha = act(q @ P["W_a"].T + P["b_a"])
    beta = act(q @ P["W_b"].T + P["b_b"])
    V = {}
    for side in ("w", "e"):
        p, r = q @ P[f"W_p{side}"].T + P[f"b_p{side}"], q @ P[f"W_q{side}"].T + P[f"b_q{side}"]
        v = act((p[:, :, None] * r[:, None, :]).reshape(-1, k, M))
        norm = (np.abs(v) ** 5).sum(-1, keepdims=True) ** 0.2
        V[side] = v / np.maximum(norm, 1e-12)
    heads = alpha[:, :, None] * V["w"] - beta[:, :, None] * V["e"]
    return new, m + (heads.mean(1) if reduce == "mean" else heads.sum(1))


# -- wrappers (4.1, 4.2, 8.6)


def gaussian(t, mu, sigma):
    return np.exp(-((t - mu) ** 2) / sigma**2)


def oscillating(t, s, tau, r_on, leak):
    phi = np.mod(t - s, tau) / tau
    k = np.zeros_like(phi)
    for index, p in np.ndenumerate(phi):
        if p < r_on / 2:
            k[index] = 2 * p / r_on
        elif p < r_on:
            k[index] = 2 - 2 * p / r_on
        else:
            k[index] = leak * p
    return k


def time_gate(k, proposed, state):
    return tuple(k * new + (1 - k) * old for new, old in zip(proposed, state, strict=True))


def zoneout(masks, proposed, state):
    return tuple(m * old + (1 - m) * new for m, new, old in zip(masks, proposed, state, strict=True))
