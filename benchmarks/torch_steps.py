"""EDA's training steps and acting in plain PyTorch, in the style people write them: what our rates are compared with.

Modules, `torch.autograd.grad(..., create_graph=True)`, `torch.optim.Adam`, and batches drawn by `torch.randint` from
tensors that lie on the device. Nothing is logged and nothing is checked for NaN, which ours does.

Compiled, the loss is one graph. A double gradient compiles only where the inner one is `torch.func.grad`, which becomes
part of the forward graph; `create_graph` breaks it. Adam is then the fused one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tiltrl.bench.work import LABELED, OBS, Data
from tiltrl.diffusion.energy import EnergyConfig
from tiltrl.diffusion.schedule import BETA_MAX, BETA_MIN, T_MIN, TimeLaw
from tiltrl.errors import InputError
from tiltrl.presets import Preset
from tiltrl.stages.critics.iql import IQLConfig

CALLS = 15
CANDIDATES = 4
Step = Callable[[], object]
Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
Score = Callable[["Energy", Tensor, Tensor, Tensor], Tensor]


# --- Diffusion --------------------------------------------------------------------------------------------------------


def log_alpha(t: Tensor) -> Tensor:
    """Log of the signal scale."""
    return -0.25 * t**2 * (BETA_MAX - BETA_MIN) - 0.5 * t * BETA_MIN


def alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise scale."""
    la = log_alpha(t)
    return torch.exp(la), torch.sqrt(-torch.expm1(2.0 * la))


def log_snr(t: Tensor) -> Tensor:
    """Half the log signal-to-noise ratio."""
    la = log_alpha(t)
    return la - 0.5 * torch.log(-torch.expm1(2.0 * la))


def random_times(n: int, law: TimeLaw, device: torch.device) -> Tensor:
    """Diffusion times of a batch."""
    u = torch.rand(n, device=device)
    share = (u + torch.arange(n, device=device)) / n if law == "stratified" else u
    return T_MIN + (1.0 - T_MIN) * share


class Block(nn.Module):
    """Residual block."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        """(..., width) to the same."""
        return h + self.fc2(nn.functional.silu(self.fc1(self.norm(self.dropout(h)))))


class Energy(nn.Module):
    """The scalar network `f(a_t | s, t)`, with the preconditioning of ours where the configuration asks for it."""

    def __init__(self, obs_dim: int, act_dim: int, config: EnergyConfig):
        super().__init__()
        self.config = config
        self.register_buffer("frequencies", config.time_scale * torch.randn(config.time_features // 2))
        self.embed_time = nn.Linear(config.time_features, config.time_width)
        self.time_out = nn.Linear(config.time_width, config.time_width)
        self.embed_action = nn.Linear(act_dim, config.action_width)
        self.embed_obs = nn.Linear(obs_dim, config.obs_width)
        self.join = nn.Linear(config.width, config.width)
        hidden = config.expansion * config.width
        self.blocks = nn.ModuleList(Block(config.width, hidden, config.dropout) for _ in range(config.blocks))
        self.out = nn.Linear(config.width, act_dim)

    def forward(self, action: Tensor, obs: Tensor, t: Tensor) -> Tensor:
        """(..., act), (..., obs), (...) to (...)."""
        config = self.config
        if config.action_scale is None:
            return self.network(action, obs, t)
        alpha, sigma = alpha_sigma(t)
        c = torch.rsqrt(sigma**2 + (alpha * config.action_scale) ** 2)[..., None]
        gain = alpha * config.action_scale * torch.rsqrt(sigma**2 + (config.detail * config.action_scale) ** 2)
        return -0.5 * ((c * action) ** 2).sum(-1) + gain * self.network(c * action, obs, t)

    def network(self, action: Tensor, obs: Tensor, t: Tensor) -> Tensor:
        """The bare network."""
        moment = t if self.config.time_input == "t" else log_snr(t) / 4.0
        angles = 2.0 * math.pi * moment[..., None] * self.frequencies
        time = self.time_out(nn.functional.silu(self.embed_time(torch.cat([angles.sin(), angles.cos()], -1))))
        h = self.join(torch.cat([self.embed_action(action), time, self.embed_obs(obs)], -1))
        for block in self.blocks:
            h = block(h)
        return self.out(nn.functional.silu(h)).sum(-1)


def score_by_autograd(energy: Energy, action: Tensor, obs: Tensor, t: Tensor) -> Tensor:
    """`grad_a f`, through which gradients flow, as it is usually written."""
    with torch.enable_grad():
        action = action.detach().requires_grad_(True)
        differentiated = any(p.requires_grad for p in energy.parameters())
        (gradient,) = torch.autograd.grad(energy(action, obs, t).sum(), action, create_graph=differentiated)
    return gradient


def score_by_func(energy: Energy, action: Tensor, obs: Tensor, t: Tensor) -> Tensor:
    """The same in a form that compiles."""
    return torch.func.grad(lambda a: energy(a, obs, t).sum())(action)


def denoising_loss(energy: Energy, score: Score, action: Tensor, obs: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean over the batch of the noise prediction's squared error."""
    alpha, sigma = alpha_sigma(t)
    noisy = alpha[:, None] * action + sigma[:, None] * noise
    predicted = -sigma[:, None] * score(energy, noisy, obs, t)
    return ((predicted - noise) ** 2).sum(-1).mean()


def alignment_loss(
    policy: Energy, behavior: Energy, noisy: Tensor, obs: Tensor, t: Tensor, q: Tensor, beta: float
) -> Tensor:
    """Cross-entropy of candidates (batch, k, act) at states (batch, obs) and times (batch,)."""
    k = q.shape[1]
    obs, t = obs[:, None].expand(-1, k, -1), t[:, None].expand(-1, k)
    with torch.no_grad():
        reference = behavior(noisy, obs, t)
    log_ratio = policy(noisy, obs, t) - reference
    return -(q.softmax(-1) * (beta * log_ratio).log_softmax(-1)).sum(-1).mean()


class Sampler:
    """DPM-Solver++ 2S on a grid uniform in t; all that depends on the grid is computed beforehand."""

    def __init__(self, energy: Energy, calls: int, score: Score, compiled: Compile, device: torch.device):
        self.act_dim = energy.out.out_features
        self.device = device
        times = torch.linspace(1.0, T_MIN, calls + 1, dtype=torch.float64)
        self.times = times.float().to(device)
        self.pairs, self.odd = divmod(calls, 2)
        lam, (alpha, sigma) = log_snr(times).tolist(), (x.tolist() for x in alpha_sigma(times))
        self.lam = lam
        # One step from s to t is `keep * action + add * clean`.
        self.advance = lambda s, t: (sigma[t] / sigma[s], -alpha[t] * math.expm1(lam[s] - lam[t]))

        def denoise(action: Tensor, obs: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = alpha_sigma(t)
            gradient = score(energy, action, obs, t.expand(len(action)))
            return (action + sigma**2 * gradient) / alpha

        fast = compiled(denoise)

        def kept(action: Tensor, obs: Tensor, t: Tensor) -> Tensor:
            # A CUDA graph writes each answer where the last one was, which the solver still needs.
            torch.compiler.cudagraph_mark_step_begin()
            return fast(action, obs, t).clone()

        self.denoise = kept if torch.device(device).type == "cuda" else fast

    @torch.no_grad()
    def __call__(self, obs: Tensor, noise: Tensor) -> Tensor:
        """One action in the unit box for each observation."""
        action = noise
        for i in range(0, 2 * self.pairs, 2):
            first = self.denoise(action, obs, self.times[i])
            keep, add = self.advance(i, i + 1)
            middle = self.denoise(keep * action + add * first, obs, self.times[i + 1])
            r = (self.lam[i + 1] - self.lam[i]) / (self.lam[i + 2] - self.lam[i])
            keep, add = self.advance(i, i + 2)
            action = keep * action + add * (first + (middle - first) / (2.0 * r))
        if self.odd:
            keep, add = self.advance(-2, -1)
            action = keep * action + add * self.denoise(action, obs, self.times[-2])
        return action.clamp(-1.0, 1.0)

    def draw(self, obs: Tensor) -> Tensor:
        """The same from fresh noise."""
        return self(obs, torch.randn(len(obs), self.act_dim, device=self.device))


# --- Critic -----------------------------------------------------------------------------------------------------------


def mlp(inputs: int, config: IQLConfig) -> nn.Sequential:
    """ReLU perceptron to one number."""
    sizes = [inputs] + [config.width] * config.depth
    hidden = [layer for i, o in zip(sizes[:-1], sizes[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))


class TwinQ(nn.Module):
    """Two action values."""

    def __init__(self, obs_dim: int, act_dim: int, config: IQLConfig):
        super().__init__()
        self.q1 = mlp(obs_dim + act_dim, config)
        self.q2 = mlp(obs_dim + act_dim, config)

    def both(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Each one's value."""
        x = torch.cat([action, obs], -1)
        return self.q1(x).squeeze(-1), self.q2(x).squeeze(-1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """The lesser of them."""
        return torch.minimum(*self.both(obs, action))


def v_loss(v: nn.Module, target: TwinQ, obs: Tensor, action: Tensor, expectile: float) -> Tensor:
    """V regresses an upper expectile of Q."""
    with torch.no_grad():
        goal = target(obs, action)
    difference = goal - v(obs).squeeze(-1)
    return (torch.where(difference > 0, expectile, 1.0 - expectile) * difference**2).mean()


def q_loss(q: TwinQ, obs: Tensor, action: Tensor, goal: Tensor) -> Tensor:
    """Both Q regress the same goal."""
    return sum(nn.functional.mse_loss(value, goal) for value in q.both(obs, action)) / 2


# --- Steps ------------------------------------------------------------------------------------------------------------


class Bench:
    """Builds each stage's step on one device, eager or compiled."""

    def __init__(self, preset: Preset, data: Data, device: str, options: Mapping[str, Any] | None):
        """Put the data on the device.

        Args:
            preset: sizes of networks and batches.
            data: made-up.
            device: cpu or cuda.
            options: of `torch.compile`; None: eager.

        Raises:
            InputError: the preset trains in a way that this reference does not know.
        """
        if "mixed" in (preset.behavior.times, preset.align.times):
            raise InputError("times = 'mixed'; the reference knows uniform and stratified ones")
        self.preset = preset
        self.device = torch.device(device)
        self.network = preset.behavior.network
        self.fused = options is not None
        self.score: Score = score_by_autograd if options is None else score_by_func
        self.compiled: Compile = (lambda f: f) if options is None else (lambda f: torch.compile(f, **options))
        self.data = {name: torch.from_numpy(array).to(self.device) for name, array in vars(data).items()}
        self.act_dim = data.action.shape[1]

    def behavior(self) -> Step:
        """Pretraining."""
        config, energy = self.preset.behavior, self._energy().train()
        optimizer, average = self._adam(energy, config.learning_rate), _average(energy, config.average)
        obs, action = self.data["obs"], self.data["action"]

        @self.compiled
        def loss_of(obs: Tensor, action: Tensor) -> Tensor:
            t = random_times(len(obs), config.times, self.device)
            return denoising_loss(energy, self.score, action, obs, t, torch.randn_like(action))

        def step() -> None:
            index = torch.randint(len(obs), (config.batch,), device=self.device)
            _descend(optimizer, loss_of(obs[index], action[index]))
            average()

        return step

    def alignment(self) -> Step:
        """Tilting."""
        config, policy = self.preset.align, self._energy().eval()
        behavior = copy.deepcopy(policy).requires_grad_(False)
        optimizer, average = self._adam(policy, config.learning_rate), _average(policy, config.average)
        obs, candidates, q = self.data["obs"][:LABELED], self.data["candidates"], self.data["q"]
        beta = self.preset.betas[0]

        @self.compiled
        def loss_of(obs: Tensor, candidates: Tensor, q: Tensor) -> Tensor:
            t = random_times(len(obs), config.times, self.device)
            alpha, sigma = alpha_sigma(t)
            noisy = alpha[:, None, None] * candidates + sigma[:, None, None] * torch.randn_like(candidates)
            return alignment_loss(policy, behavior, noisy, obs, t, q, beta)

        def step() -> None:
            index = torch.randint(len(obs), (config.batch,), device=self.device)
            _descend(optimizer, loss_of(obs[index], candidates[index], q[index]))
            average()

        return step

    def iql(self) -> Step:
        """The paper's critic."""
        config = self.preset.critic
        if not isinstance(config, IQLConfig):
            raise InputError("the critic of this preset is another; IQL is the paper preset's")
        obs_dim = self.data["obs"].shape[1]
        v = mlp(obs_dim, config).to(self.device)
        q = TwinQ(obs_dim, self.act_dim, config).to(self.device)
        target = copy.deepcopy(q).requires_grad_(False)
        v_optimizer, q_optimizer = (self._adam(network, config.learning_rate) for network in (v, q))
        v_loss_of = self.compiled(lambda obs, action: v_loss(v, target, obs, action, config.expectile))
        q_loss_of = self.compiled(lambda obs, action, goal: q_loss(q, obs, action, goal))
        d = self.data

        def step() -> None:
            index = torch.randint(len(d["obs"]), (config.batch,), device=self.device)
            obs, action = d["obs"][index], d["action"][index]
            with torch.no_grad():
                goal = d["reward"][index] + d["discount"][index] * v(d["next_obs"][index]).squeeze(-1)
            _descend(v_optimizer, v_loss_of(obs, action))
            _descend(q_optimizer, q_loss_of(obs, action, goal))
            with torch.no_grad():
                for old, new in zip(target.parameters(), q.parameters(), strict=True):
                    old.mul_(1.0 - config.polyak).add_(new, alpha=config.polyak)

        return step

    def acting(self, states: int) -> Step:
        """The best of four actions by the critic, for observations that come and go as NumPy arrays."""
        sampler = self._sampler()
        q = TwinQ(OBS, self.act_dim, IQLConfig()).to(self.device).requires_grad_(False)
        rng = np.random.default_rng(0)

        @torch.no_grad()
        def step() -> np.ndarray:
            obs = torch.from_numpy(rng.standard_normal((states, OBS), np.float32)).to(self.device)
            repeated = obs.repeat_interleave(CANDIDATES, 0)
            action = sampler.draw(repeated)
            best = q(repeated, action).view(states, CANDIDATES).argmax(-1)
            return action.view(states, CANDIDATES, -1)[torch.arange(states, device=self.device), best].cpu().numpy()

        return step

    def candidates(self, states: int) -> Step:
        """Candidates of so many states."""
        sampler, k, total = self._sampler(), self.preset.annotate.k, LABELED // states
        obs = self.data["obs"]
        count = iter(range(1 << 60))

        def step() -> np.ndarray:
            start = next(count) % total * states
            return sampler.draw(obs[start : start + states].repeat_interleave(k, 0)).cpu().numpy()

        return step

    def _sampler(self) -> Sampler:
        energy = self._energy().eval().requires_grad_(False)
        return Sampler(energy, CALLS, self.score, self.compiled, self.device)

    def _energy(self) -> Energy:
        return Energy(OBS, self.act_dim, self.network).to(self.device)

    def _adam(self, network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        fused = {"fused": True} if self.fused else {}
        return torch.optim.Adam(network.parameters(), lr=learning_rate, **fused)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _average(network: nn.Module, decay: float) -> Callable[[], None]:
    """Updates the running average of the weights; of decay 0 there is none."""
    if not decay:
        return lambda: None
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return lambda: average.update_parameters(network)
