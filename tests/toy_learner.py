"""A learner of one's own, "copy the best answer": an agent that repeats the best-liked clip."""

import numpy as np
from toy_bandit import PAYS, BanditDomain, Softmax, pulls


class CopyBest(Softmax):
    """Pulls the arms of the trajectory that the reward likes best so far, and some at random."""

    def train(self, reward, steps):
        self.round += 1
        chances = 0.9 * self.copied() + 0.1 / len(PAYS)
        played = pulls(chances, self.generator, max(1, steps // 5), f"round {self.round}")
        liked = max(played, key=lambda t: reward.rewards([t])[0].sum())
        self.logits = np.bincount(liked.actions, minlength=len(PAYS)).astype(float)
        return played, {"true_return": float(np.mean([t.env_rewards.sum() for t in played]))}

    def copied(self):
        counts = self.logits + (self.logits.sum() == 0)
        return counts / counts.sum()


class CopyingBandit(BanditDomain):
    domain, agent = "toy_learner:DOMAIN", CopyBest


DOMAIN = CopyingBandit()
