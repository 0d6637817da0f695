"""ASGC's whole step in float64 numpy, written from the formulas alone: shares no code with the package."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
U32 = 0xFFFFFFFF


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x ^ (x >> np.uint64(16))
    x = (x * np.uint64(0x7FEB352D)) & np.uint64(U32)
    x = x ^ (x >> np.uint64(15))
    x = (x * np.uint64(0x846CA68B)) & np.uint64(U32)
    return x ^ (x >> np.uint64(16))


def gaussian(seed: int, t: int, layer: int, shape: tuple[int, ...]) -> Array:
    def word(value: int) -> NDArray[np.uint64]:
        return np.array([value & U32], dtype=np.uint64)

    k0 = mix(word(int(mix(word(int(mix(word(seed ^ 0x243F6A88))[0]) + t))[0]) + layer))
    k1 = mix(k0 ^ np.uint64(0x85A308D3))
    a = mix(np.arange(math.prod(shape), dtype=np.uint64) ^ k0)
    b = mix((a + k1) & np.uint64(U32))
    total = sum(((w >> np.uint64(s)) & np.uint64(255)).astype(np.int64) for w in (a, b) for s in (0, 8, 16, 24))
    eps = (total - 1020).astype(np.float32) * np.float32(1 / 209.0217)
    return eps.astype(np.float64).reshape(shape)


def phi(x: Array, tau: Any, p: float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        small = np.minimum(np.abs(x), tau)
        ratio = np.where(np.maximum(np.abs(x), tau) > 0, small / np.maximum(np.abs(x), tau), 0.0)
        ratio = np.where(np.isfinite(ratio), ratio, 0.0)
    return np.sign(x) * small * (1 + ratio**p) ** (-1 / p)


def rms(x: Array) -> float:
    return math.sqrt(float(np.mean(x * x))) if x.size else 0.0


class Unit:
    """Statistics of one layer, or of one unit of it."""

    def __init__(self) -> None:
        self.n = self.mu = self.var = self.age = 0.0
        self.was_high = False
        self.nonfinite = self.streak = 0
        self.noise = self.tau = 0.0

    def transform(
        self, g: Array, eps: Array, t: int, o: dict[str, Any], root: float, own: Array | None = None
    ) -> tuple[Array, Array]:
        """(transformed gradient, noise for after the rule); root: rms of what the rule divided by so far; own: root
        mean square of each element so far."""
        finite = bool(np.isfinite(g).all())
        s2 = float(np.mean(g * g)) if g.size else 0.0
        first = self.n == 0 and finite and s2 > 0
        if first:
            self.n, self.mu, self.var, self.age = 1.0, 0.0, s2, 1.0
        sigma = math.sqrt(self.var)
        level = math.sqrt(self.mu**2 + self.var)
        if o["threshold"] is not None:
            tau = o["threshold"]
        elif o["clip_factor"] == math.inf:
            tau = math.inf
        else:
            tau = abs(self.mu) + o["clip_factor"] * sigma if o["mode"] == "value" else o["clip_factor"] * level
        self.tau = tau

        c_t = o["noise_scale"] * (1 + t) ** (-o["noise_decay"] / 2)
        std = min(sigma, math.sqrt(s2)) if finite else 0.0
        if s2 == 0 and o["noise_zeros"]:
            std = sigma
        self.noise, self.streak = c_t * std, 0 if finite else self.streak + 1
        if o["noise_at"] == "update" and o["rule"] != "sgd" and std > 0:
            std = std / max(std, root)
        noise = np.where((g != 0) | o["noise_zeros"], c_t * std * eps, 0.0)
        clean = g
        if not finite:
            self.nonfinite += 1
            if o["mode"] == "norm":
                clean = np.zeros_like(g)
            else:
                if self.n == 0 and o["threshold"] is None:
                    tau = math.inf
                clean = np.where(np.isnan(g), 0.0, g)
                if tau == math.inf or self.n == 0:
                    clean = np.where(np.isinf(g), 0.0, clean)
        h = clean + noise if o["noise_at"] == "gradient" else clean
        if o["mode"] == "value":
            limit = np.full_like(g, tau)
            if own is not None:
                limit = np.where(own > 0, o["clip_factor"] * own, limit)
            h = phi(h, limit, o["clip_sharpness"])
        else:
            r = math.sqrt(s2) if finite else 0.0
            h = h * (float(phi(np.array(r), tau, o["clip_sharpness"])) / r if r > 0 else float(tau > 0))
        if finite and s2 > 0 and not first:
            self.update(g, s2, o["stats_decay"], o["outlier_share"])
        return h, noise if o["noise_at"] == "update" else np.zeros_like(g)

    def update(self, g: Array, s2: float, decay: float, share: float) -> None:
        level = self.mu**2 + self.var
        high = s2 > 100 * level
        if self.age < 1 / (1 - decay) and (s2 < level / 100 or (high and self.was_high)):
            self.n, self.mu, self.var = 1.0, 0.0, s2
        else:
            self.n += 1
            w = max(1 / self.n, 1 - decay)
            limit = self.var * (1 / share + 3 * math.sqrt(2 / g.size))
            d2 = float(np.mean((g - self.mu) ** 2))
            self.mu += w * min(max(float(np.mean(g)) - self.mu, -math.sqrt(limit)), math.sqrt(limit))
            self.var += w * (min(d2, limit) - self.var)
        self.age += 1
        self.was_high = high


class Oracle:
    """One layer."""

    def __init__(self, param: Array, layer: int, options: dict[str, Any]) -> None:
        self.p, self.layer, self.o = param.copy(), layer, options
        by_unit = options["granularity"] == "unit" and param.ndim >= 2
        self.units = [Unit() for _ in range(param.shape[0] if by_unit else 1)]
        self.by_unit, self.t = by_unit, 0
        self.ceiling = None if options["exclude_head"] else options["ceiling"]  # who has only a head
        self.lr, self.last, self.vector = options["lr"], None, None
        self.m = self.v = self.vmax = self.buffer = self.mean = np.zeros_like(param)
        if options["rule"] == "adagrad":
            self.v = self.v + options["initial_accumulator_value"]

    def step(self, g: Array) -> None:
        self.eps = self.own_eps(g)
        eps = gaussian(self.o["seed"], self.t, self.layer, g.shape)
        if self.by_unit:
            rows = [u.transform(g[i], eps[i], self.t, self.o, self.root(i)) for i, u in enumerate(self.units)]
            h, noise = np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])
        else:
            h, noise = self.units[0].transform(g, eps, self.t, self.o, self.root(...), self.element_rms())
        self.t += 1
        if self.ceiling is not None:
            self.lr = self.o["lr"] * self.allowed(g)
        u, lr = getattr(self, self.o["rule"].replace("adamw", "adam"))(h)
        before = self.p  # behind decoupled weight decay
        self.p = self.p - lr * (u + noise)
        if self.ceiling is not None:
            moved = rms(before - self.p) / self.lr
            self.last = rms(self.buffer) if self.o["rule"] == "sgd" else moved

    def allowed(self, g: Array) -> float:
        """What the ceiling leaves of this step."""
        o, size = self.o, rms(self.p)
        if o["ceiling_norm"] == "spectral" and self.p.ndim > 1:
            matrix = self.p.reshape(len(self.p), -1)
            for _ in range(1 if self.vector is not None else 10):
                start = gaussian(o["seed"], 0, self.layer, matrix.shape[1:]) if self.vector is None else self.vector
                self.vector = matrix.T @ (matrix @ start)
                self.vector = self.vector / np.linalg.norm(self.vector)
            size = float(np.linalg.norm(matrix @ self.vector)) / math.sqrt(self.p.size)
        if o["rule"] != "sgd":
            update = (1 - o["alpha"]) ** -0.5 if o["rule"] == "rmsprop" else 1.0
            update = update if self.last is None else self.last
        else:
            before, after = (0.0, 1.0) if o["noise_at"] == "update" else (1.0, 0.0)
            if o["mode"] == "value":
                rho = math.sqrt(np.mean([unit.tau**2 for unit in self.units]))
            else:
                parts = []
                for i, unit in enumerate(self.units):
                    x = g[i] if self.by_unit else g
                    r = rms(x) if np.isfinite(x).all() else 0.0
                    left = float(phi(np.array(r), unit.tau, o["clip_sharpness"])) / r if r > 0 else 0.0
                    parts.append((r**2 + (before * unit.noise) ** 2) * left**2)
                rho = math.sqrt(np.mean(parts))
            rho += o["weight_decay"] * rms(self.p)
            update = rho
            if o["momentum"]:
                update = rho if self.last is None else o["momentum"] * self.last + (1 - o["dampening"]) * rho
                if o["nesterov"]:
                    update = rho + o["momentum"] * update
            update = math.sqrt(update**2 + after * np.mean([unit.noise**2 for unit in self.units]))
        assert self.ceiling is not None
        largest = self.ceiling * max(size, o["weight_floor"])
        return min(1.0, largest / (o["lr"] * update)) if update > 0 else 1.0

    def own_eps(self, g: Array) -> Any:
        """What is added to the denominators, by element: eps, and eps_scale sigmas of the unit."""
        if not self.o["eps_scale"]:
            return np.full_like(g, self.o.get("eps", 0.0))
        sigmas = [unit.var**0.5 for unit in self.units]
        for i, unit in enumerate(self.units):
            x = g[i] if self.by_unit else g
            if unit.n == 0 and np.isfinite(x).all() and x.size:  # the first step sets the scale
                sigmas[i] = float(np.mean(x * x)) ** 0.5
        each = np.array(sigmas).reshape(-1, *[1] * (g.ndim - 1)) if self.by_unit else np.array(sigmas[0])
        return np.broadcast_to(self.o["eps"] + self.o["eps_scale"] * each, g.shape)

    def element_rms(self) -> Array | None:
        if self.o["granularity"] != "element":
            return None
        decay = self.o["betas"][1] if "betas" in self.o else self.o["alpha"]
        return np.sqrt(self.v / (1 - decay**self.t)) if self.t else np.zeros_like(self.p)

    def root(self, unit: Any) -> float:
        """Root mean square of the rule's denominators in a unit, from the steps before; 0: there are none."""
        o = self.o
        if o["rule"] == "sgd":
            return 0.0
        square = self.vmax if o.get("amsgrad") else self.v
        if o.get("centered"):
            square = square - self.mean**2
        mean = max(0.0, float(np.mean(square[unit]))) if square[unit].size else 0.0
        if "betas" in o:
            mean /= 1 - o["betas"][1] ** (self.t + 1)
        return math.sqrt(mean) + float(np.mean(self.eps[unit]))

    def decayed(self, g: Array) -> Array:
        g = -g if self.o["maximize"] else g
        return g + self.o["weight_decay"] * self.p

    def sgd(self, g: Array) -> tuple[Array, float]:
        o, g = self.o, self.decayed(g)
        if o["momentum"]:
            self.buffer = g if self.t == 1 else o["momentum"] * self.buffer + (1 - o["dampening"]) * g
            g = g + o["momentum"] * self.buffer if o["nesterov"] else self.buffer
        return g, self.lr

    def adam(self, g: Array) -> tuple[Array, float]:
        o = self.o
        if o["rule"] == "adamw" or o.get("decoupled_weight_decay"):
            g = -g if o["maximize"] else g
            self.p = self.p * (1 - self.lr * o["weight_decay"])
        else:
            g = self.decayed(g)
        b1, b2 = o["betas"]
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        self.vmax = np.maximum(self.vmax, self.v)
        second = self.vmax if o["amsgrad"] else self.v
        denominator = np.sqrt(second / (1 - b2**self.t)) + self.eps
        return self.m / (1 - b1**self.t) / denominator, self.lr

    def rmsprop(self, g: Array) -> tuple[Array, float]:
        o, g = self.o, self.decayed(g)
        self.v = o["alpha"] * self.v + (1 - o["alpha"]) * g * g
        self.mean = o["alpha"] * self.mean + (1 - o["alpha"]) * g
        variance = self.v - self.mean**2 if o["centered"] else self.v
        denominator = np.sqrt(variance) + self.eps
        self.buffer = o["momentum"] * self.buffer + g / denominator
        return self.buffer, self.lr

    def adagrad(self, g: Array) -> tuple[Array, float]:
        o, g = self.o, self.decayed(g)
        self.v = self.v + g * g
        denominator = np.sqrt(self.v) + self.eps
        return g / denominator, self.lr / (1 + (self.t - 1) * o["lr_decay"])
