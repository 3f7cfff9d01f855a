"""One step of every baseline cell in NumPy, float64, written from the reference (cells.md, section 8) line by line.

Each function takes the parameters as the module names them, one row x (B, I), the old state and the noise of the row, and
returns the new state. Nothing here uses torch or our cells.
"""

import numpy as np
from scipy.linalg import expm


def s(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.maximum(a, 0)


def norm(a, weight=1.0, bias=0.0):
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5) * weight + bias


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def orthogonal(P):
    skew = np.tril(P["parametrizations.weight_h.original"])
    return P["parametrizations.weight_h.0.base"] @ expm(skew - skew.T)


def modrelu(a, b, offset):
    return np.sign(a) * relu(np.abs(a) + offset + b)


def part(P, prefix):
    """The parameters of a sub-module."""
    return {name[len(prefix) :]: value for name, value in P.items() if name.startswith(prefix)}


def elman(P, x, state, noise):
    return (np.tanh(x @ P["weight_x"].T + state[0] @ P["weight_h"].T + P["bias"]),)


def irnn(P, x, state, noise):
    return (relu(x @ P["weight_x"].T + state[0] @ P["weight_h"].T + P["bias"]),)


def rnn_orth(P, x, state, noise):
    a = x @ P["weight_x"].T + state[0] @ P["weight_h"].T + P["bias"]
    return (relu(norm(a, P["norm.weight"], P["norm.bias"])),)


def indrnn_layer(P, x, state, noise):
    return (relu(x @ P["weight_x"].T + P["bias"] + P["weight_h"] * state[0]),)


def orth_rnn(P, x, state, noise):
    return (modrelu(x @ P["weight_x"].T + state[0] @ orthogonal(P).T, P["bias"], 0.0),)


def goru(P, x, state, noise):
    (h,) = state
    W_r, W_g, W_c = np.split(P["weight_x"], 3)
    U_r, U_g = np.split(P["weight_gates"], 2)
    b_r, b_g = np.split(P["bias"], 2)
    r = s(x @ W_r.T + h @ U_r.T + b_r)
    g = s(x @ W_g.T + h @ U_g.T + b_g)
    c = modrelu(r * (h @ orthogonal(P).T) + x @ W_c.T, P["bias_modrelu"], 0.001)
    return (g * h + (1 - g) * c,)


def rhn(P, x, state, noise):
    (y,) = state
    W_H, W_T = np.split(P["weight_x"], 2)
    for l in range(4):
        R_H, R_T = np.split(P[f"weights_h.{l}"], 2)
        b_H, b_T = np.split(P[f"biases.{l}"], 2)
        first = 1.0 if l == 0 else 0.0
        h = np.tanh(first * (x @ W_H.T) + y @ R_H.T + b_H)
        t = s(first * (x @ W_T.T) + y @ R_T.T + b_T)
        y = (h - y) * t + y
    return (y,)


def clockwork(P, x, state, noise):
    h, clock = state
    H, groups = h.shape[1], 8
    U, entries = np.zeros((H, H)), iter(P["parametrizations.weight_h.original"][0])
    period = [2 ** (unit * groups // H) for unit in range(H)]
    for i in range(H):
        for j in range(H):
            if period[j] >= period[i]:
                U[i, j] = next(entries)
    new = h.copy()
    for b in range(len(h)):
        for i in range(H):
            if int(clock[b, 0]) % period[i] == 0:
                new[b, i] = np.tanh(P["weight_x"][i] @ x[b] + U[i] @ h[b] + P["bias"][i])
    return new, clock + 1


def sru(P, x, state, noise):
    mu, H = state[1], state[0].shape[1]
    r = relu(mu @ P["weight_r"].T + P["bias_r"])
    phi = relu(x @ P["weight_x"].T + r @ P["weight_p"].T + P["bias"])
    means = []
    for k, a in enumerate(np.float32([0.0, 0.5, 0.9, 0.99, 0.999]).astype(np.float64)):  # constants in float32
        means.append(a * mu[:, k * H : (k + 1) * H] + (1 - a) * phi)
    mu = np.concatenate(means, 1)
    return relu(mu @ P["weight_o"].T + P["bias_o"]), mu


def lstm(P, x, state, noise):
    h, c = state
    f, i, u, o = np.split(x @ P["weight_x"].T + h @ P["weight_h"].T + P["bias"], 4, -1)
    c = s(f) * c + s(i) * np.tanh(u)
    return s(o) * np.tanh(c), c


def g2_lstm(P, x, state, noise):
    h, c = state
    f, i, u, o = np.split(x @ P["weight_x"].T + h @ P["weight_h"].T + P["bias"], 4, -1)
    if noise:
        noise_f, noise_i = np.split(noise[0], 2, -1)
        f = (f + noise_f) / 0.9
        i = (i + noise_i) / 0.9
    c = s(f) * c + s(i) * np.tanh(u)
    return s(o) * np.tanh(c), c


def noisy_lstm(P, x, state, noise):
    h, c = state
    H = h.shape[1]
    xi = noise if noise else (np.full((len(h), 3 * H), 0.797), np.zeros_like(h), np.zeros_like(h))

    def noisy_sigmoid(a, p, xi):
        lin = 0.25 * a + 0.5
        hard = np.clip(lin, 0, 1)
        scale = -0.15 * (s(p * (hard - lin)) - 0.5) ** 2  # the sign turns, for alpha > 1
        return 1.1 * hard + (1 - 1.1) * lin - np.sign(a) * scale * np.abs(xi)

    def noisy_tanh(a, p, xi):
        hard = np.clip(a, -1, 1)
        scale = 0.5 * (s(p * (hard - a)) - 0.5) ** 2
        return 1.15 * hard + (1 - 1.15) * a - np.sign(a) * scale * xi

    f, i, o, u = np.split(x @ P["weight_x"].T + h @ P["weight_h"].T + P["bias"], 4, -1)
    p_f, p_i, p_o = np.split(P["p_sigmoid"], 3)
    xi_f, xi_i, xi_o = np.split(xi[0], 3, -1)
    f, i, o = noisy_sigmoid(f, p_f, xi_f), noisy_sigmoid(i, p_i, xi_i), noisy_sigmoid(o, p_o, xi_o)
    c = f * c + i * noisy_tanh(u, P["p_candidate"], xi[1])
    return o * noisy_tanh(c, P["p_output"], xi[2]), c


def on_lstm(P, x, state, noise):
    h, c = state
    H = h.shape[1]
    n = (len(P["bias"]) - 4 * H) // 2
    C = H // n
    a = x @ P["weight_x"].T + h @ P["weight_h"].T + P["bias"]
    a_mi, a_mf, rest = a[:, :n], a[:, n : 2 * n], a[:, 2 * n :].reshape(len(h), 4, n, C)
    o, u, i, f = s(rest[:, 0]), np.tanh(rest[:, 1]), s(rest[:, 2]), s(rest[:, 3])
    mf = np.cumsum(softmax(a_mf), -1)[:, :, None]
    mi = 1 - np.cumsum(softmax(a_mi), -1)[:, :, None]
    w = mf * mi
    f_hat = f * w + (mf - w)
    i_hat = i * w + (mi - w)
    c = f_hat * c.reshape(len(h), n, C) + i_hat * u
    return (o * np.tanh(c)).reshape(h.shape), c.reshape(h.shape)


def slstm(P, x, state, noise):
    h, c, n, m = state
    H = h.shape[1]
    heads = 4
    width = H // heads
    R = np.zeros((4 * H, H))
    entries = P["parametrizations.weight_h.original"][0].reshape(4, heads, width, width)
    for gate in range(4):
        for k in range(heads):
            at = slice(k * width, (k + 1) * width)
            R[gate * H :][at, at] = entries[gate, k]
    i, f, z, o = np.split(x @ P["weight_x"].T + h @ R.T + P["bias"], 4, -1)
    logf = np.log(s(f))
    m_new = np.where(n == 0, i, np.maximum(i, logf + m))
    ig = np.exp(i - m_new)
    fg = np.where(n == 0, 0, np.exp(np.minimum(logf + m - m_new, 0)))
    c = fg * c + ig * np.tanh(z)
    n = fg * n + ig
    return s(o) * c / n, c, n, m_new


def rmc(P, x, state, noise):
    B, N, heads = len(x), 4, 2
    M = state[0].reshape(B, N, -1)
    F = M.shape[-1]
    size = F // heads
    w = x @ P["inputs.weight"].T + P["inputs.bias"]
    X = np.concatenate([M, w[:, None]], 1)
    qkv = norm(X @ P["qkv.weight"].T + P["qkv.bias"], P["norm_qkv.weight"], P["norm_qkv.bias"])
    attended = np.zeros_like(X)
    for k in range(heads):
        q, key, v = np.split(qkv[:, :, 3 * size * k : 3 * size * (k + 1)], 3, -1)
        attended[:, :, size * k : size * (k + 1)] = softmax(size**-0.5 * q @ key.transpose(0, 2, 1)) @ v
    Y = norm(X + attended, P["norm_attention.weight"], P["norm_attention.bias"])
    mlp = relu(Y @ P["mlp.0.weight"].T + P["mlp.0.bias"]) @ P["mlp.2.weight"].T + P["mlp.2.bias"]
    X = norm(Y + mlp, P["norm_mlp.weight"], P["norm_mlp.bias"])
    Mn = X[:, :-1]
    G = (w @ P["gates_x.weight"].T + P["gates_x.bias"])[:, None] + (
        np.tanh(M) @ P["gates_memory.weight"].T + P["gates_memory.bias"]
    )
    i, f = s(G[..., :F] + 0), s(G[..., F:] + 1)
    return ((i * np.tanh(Mn) + f * M).reshape(B, -1),)


def gru(P, x, state, noise):
    (h,) = state
    W, U = np.split(P["weight_x"], 3), np.split(P["weight_h"], 3)
    b_z, b_r, b_n = np.split(P["bias"], 3)
    z = s(x @ W[0].T + h @ U[0].T + b_z)
    r = s(x @ W[1].T + h @ U[1].T + b_r)
    n = np.tanh(x @ W[2].T + b_n + r * (h @ U[2].T + P["bias_h"]))
    return (z * h + (1 - z) * n,)


def stacked(layer, count, layers):
    """The top layer's entries first, then those of the others from the lowest up."""

    def step(P, x, state, noise):
        olds = [*(state[count * (k + 1) : count * (k + 2)] for k in range(layers - 1)), state[:count]]
        news = []
        for k, old in enumerate(olds):
            news.append(layer(part(P, f"layers.{k}."), x, old, ()))
            x = news[-1][0]
        return (*news[-1], *(entry for new in news[:-1] for entry in new))

    return step


def dilated(layer, count, dilations=(1, 2, 4, 8)):
    """Every layer on a list of its past states, the newest first."""

    def step(P, x, state, noise):
        sizes = [count * d for d in dilations]
        top, rest = state[: sizes[-1]], state[sizes[-1] :]
        rings = []
        for size in sizes[:-1]:
            rings, rest = [*rings, rest[:size]], rest[size:]
        news = []
        for k, ring in enumerate([*rings, top]):
            new = layer(part(P, f"layers.{k}.cell."), x, ring[len(ring) - count :], ())
            news.append((*new, *ring[: len(ring) - count]))
            x = new[0]
        return (*news[-1], *(entry for new in news[:-1] for entry in new))

    return step


def positive(v):
    return np.where(v >= 0, v + 0.5, s(v))


def mingru(P, x, state, noise):
    a, b = np.split(x @ P["linear.weight"].T + P["linear.bias"], 2, -1)
    z = s(a)
    return ((1 - z) * state[0] + z * positive(b),)


def minlstm(P, x, state, noise):
    f, i, n = np.split(x @ P["linear.weight"].T + P["linear.bias"], 3, -1)
    f, i = s(f), s(i)
    return (f / (f + i) * state[0] + i / (f + i) * positive(n),)


def lru(P, x, state, noise):
    memory = state[1][:, 0::2] + 1j * state[1][:, 1::2]
    lam = np.exp(-np.exp(P["nu"]) + 1j * np.exp(P["theta"]))
    H = len(lam)
    B, C = P["B"][:H] + 1j * P["B"][H:], P["C"][:, :H] + 1j * P["C"][:, H:]
    u = x @ P["encoder.weight"].T + P["encoder.bias"]
    v = norm(u, P["norm.weight"], P["norm.bias"])
    memory = lam * memory + np.exp(P["gamma"]) * (v @ B.T)
    y = (memory @ C.T).real + P["D"] * v
    g = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    one, two = np.split(g @ P["mix.weight"].T + P["mix.bias"], 2, -1)
    return u + one * s(two), np.stack([memory.real, memory.imag], -1).reshape(len(x), -1)


def ffm(P, x, state, noise):
    m, c, H = len(P["a"]), len(P["b"]), state[0].shape[1]
    S = (state[1][:, 0::2] + 1j * state[1][:, 1::2]).reshape(len(x), m, c)
    out = x @ P["pre.weight"].T + P["pre.bias"]
    value, skip, gate_in, gate_out = np.split(out, [m, m + H, 2 * m + H], -1)
    v = value * s(gate_in)
    limit = np.log(np.finfo(np.float64).max) / 1024 - 0.01
    a = np.clip(P["a"], -limit, -1e-8)
    S = np.exp(a[:, None] + 1j * P["b"][None, :]) * S + v[:, :, None]
    flat = np.stack([S.real, S.imag], -1).reshape(len(x), -1)
    z = flat @ P["mix.weight"].T + P["mix.bias"]
    return norm(z) * s(gate_out) + skip * (1 - s(gate_out)), flat


GOLDEN = {
    "elman": elman, "irnn": irnn, "rnn-orth": rnn_orth, "indrnn": stacked(indrnn_layer, 1, 2), "orth-rnn": orth_rnn,
    "goru": goru, "rhn": rhn, "clockwork": clockwork, "sru": sru, "g2-lstm": g2_lstm, "noisy-lstm": noisy_lstm,
    "on-lstm": on_lstm, "slstm": slstm, "rmc": rmc, "stacked-lstm": stacked(lstm, 2, 2),
    "dilated-lstm": dilated(lstm, 2), "dilated-gru": dilated(gru, 1), "mingru": mingru, "minlstm": minlstm, "lru": lru,
    "ffm": ffm,
}  # fmt: skip
