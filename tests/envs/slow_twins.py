"""The rules of the diagnostic tasks once more: one episode in plain Python, from the published descriptions, sharing
nothing with `envs/`. A twin lists every outcome of a step with its probability, so that it serves twice: an environment's
steps are held against it, and small ones are worked out exactly (`exact.py`).

A state is a tuple whose first entry is the number of steps taken. `matches` says whether it is the state that one
environment of a batch is in (`fields`: that environment's state as Python values).
"""

from __future__ import annotations

import itertools


class Twin:
    actions: int

    def starts(self):
        """[(probability, state)]"""
        raise NotImplementedError

    def after(self, s, action):
        """[(probability, state, reward, over)]"""
        raise NotImplementedError

    def see(self, s):
        """The observation, a tuple of numbers."""
        raise NotImplementedError

    def matches(self, s, fields):
        raise NotImplementedError

    def won(self, s, rewards):
        """Of an episode that ended in s with these rewards."""
        positive = sum(r > 0 for r in rewards)
        asked = sum(r != 0 for r in rewards)
        return 10 * positive >= 9 * asked


def one_hot(value, size):
    return tuple(float(i == value) for i in range(size))


class MemoryTwin(Twin):
    actions = 2

    def __init__(self, n, bits, quirk):
        self.n, self.bits, self.quirk = n, bits, quirk

    def starts(self):
        all_of_them = list(itertools.product(itertools.product((0, 1), repeat=self.bits), range(self.bits)))
        return [(1 / len(all_of_them), (0, context, query)) for context, query in all_of_them]

    def after(self, s, action):
        t, context, query = s
        last = self.n if self.quirk else self.n - 1  # the row whose action is the answer
        reward = 0 if t < last else 1 if action == context[query] else -1
        return [(1, (t + 1, context, query), reward, t == last)]

    def see(self, s):
        t, context, query = s
        if self.quirk:
            t = max(t - 1, 0)
        shown = [2 * bit - 1 if t == 0 else 0 for bit in context]
        if self.quirk:
            asked = [query if t == self.n - 1 else 0]
        else:
            asked = [1 if t == self.n - 1 and i == query else 0 for i in range(self.bits)]
        return (1 - t / self.n, *asked, *shown)

    def matches(self, s, fields):
        return (tuple(fields.context), fields.query) == s[1:]


class UmbrellaTwin(Twin):
    actions = 2

    def __init__(self, n, distractors, hidden):
        self.n, self.distractors, self.hidden = n, distractors, hidden

    def starts(self):
        states = [(0, *bits[:2], bits[2:]) for bits in itertools.product((0, 1), repeat=2 + self.distractors)]
        return [(1 / len(states), s) for s in states]

    def after(self, s, action):
        t, need, have, _ = s
        if t == 0:
            have = action
        outcomes = []
        for coin, *noise in itertools.product((-1, 1), *[(0, 1)] * self.distractors):
            end = t + 1 == self.n
            reward = (1 if have == need else -1) if end else coin
            outcomes.append(((t + 1, need, have, tuple(noise)), reward, end))
        return [(outcomes.count(o) / len(outcomes), *o) for o in dict.fromkeys(outcomes)]

    def see(self, s):
        t, need, have, noise = s
        visible = not (self.hidden and t > 0)
        return (need * visible, have * visible, 1 - t / self.n, *noise)

    def matches(self, s, fields):
        return (fields.t, fields.need, fields.have, tuple(fields.noise)) == s

    def won(self, s, rewards):
        return s[1] == s[2]


class DiscountingTwin(Twin):
    actions = 5
    waits = [1, 3, 10, 30, 100]

    def __init__(self, mapping_seed):
        self.best = range(5) if mapping_seed is None else [mapping_seed % 5]

    def starts(self):
        return [(1 / len(self.best), (0, -1, best)) for best in self.best]

    def after(self, s, action):
        t, arm, best = s
        arm = action if t == 0 else arm
        reward = 0 if t + 1 != self.waits[arm] else 1.1 if arm == best else 1
        return [(1, (t + 1, arm, best), reward, t + 1 == 100)]

    def see(self, s):
        return (s[1], s[0] / 100)

    def matches(self, s, fields):
        return tuple(fields) == s

    def won(self, s, rewards):
        return s[1] == s[2]


class Pack(Twin):
    """What the card games share: what may come after some cards."""

    def __init__(self, cards, replacement=False, values=4):
        self.cards, self.replacement, self.values = cards, replacement, values

    def draws(self, gone):
        copies = self.cards // self.values
        left = [copies - (0 if self.replacement else gone.count(v)) for v in range(self.values)]
        return [(n / sum(left), v) for v, n in enumerate(left) if n > 0]


class RepeatTwin(Pack):
    """State: (t, cards so far)."""

    actions = 4

    def __init__(self, cards, k, replacement=False):
        super().__init__(cards, replacement)
        self.k = k

    def starts(self):
        return [(p, (0, (v,))) for p, v in self.draws(())]

    def pay(self, hand, action):
        if len(hand) < self.k:
            return 0
        return (1 if hand[-self.k] == action else -1) / (self.cards - self.k)

    def after(self, s, action):
        t, hand = s
        reward = self.pay(hand, action)
        over = len(hand) + 1 == self.cards
        return [(p, (t + 1, (*hand, v)), reward, over) for p, v in self.draws(hand)]

    def see(self, s):
        return one_hot(s[1][-1], 4)

    def matches(self, s, fields):
        return fields.last[-1] == s[1][-1]


class FirstTwin(RepeatTwin):
    def __init__(self, cards, replacement=False):
        super().__init__(cards, 1, replacement)

    def pay(self, hand, action):
        return (1 if hand[0] == action else -1) / (self.cards - 1)

    def matches(self, s, fields):
        return fields.card == s[1][-1]


class AutoencodeTwin(Pack):
    """State: (t, cards so far, those not yet recited)."""

    actions = 4

    def starts(self):
        return [(p, (0, (v,), None)) for p, v in self.draws(())]

    def after(self, s, action):
        t, hand, rest = s
        if rest is None:  # watching
            return [(p, (t + 1, (*hand, v), (*hand, v) if len(hand) + 1 == self.cards else None), 0, False)
                    for p, v in self.draws(hand)]  # fmt: skip
        reward = (1 if rest[-1] == action else -1) / self.cards
        return [(1, (t + 1, hand, rest[:-1]), reward, len(rest) == 1)]

    def see(self, s):
        _, hand, rest = s
        playing = rest is not None
        card = hand[-1] if not playing or len(rest) == self.cards else 0
        return (float(playing), float(not playing), *one_hot(card, 4))

    def matches(self, s, fields):
        return fields.stack[len(s[1]) - 1] == s[1][-1]


class CountTwin(Pack):
    """State: (t, cards so far, queries so far)."""

    def __init__(self, cards, replacement=False, values=2):
        super().__init__(cards, replacement, values)
        self.actions = cards // values + 1

    def starts(self):
        return [(p * q, (0, (v,), (w,))) for p, v in self.draws(()) for q, w in self.draws(())]

    def after(self, s, action):
        t, hand, queries = s
        right = min(hand.count(queries[-1]), self.actions - 1)
        reward = (1 if action == right else -1) / (self.cards - 1)
        over = len(hand) + 1 == self.cards
        return [(p * q, (t + 1, (*hand, v), (*queries, w)), reward, over)
                for p, v in self.draws(hand) for q, w in self.draws(queries)]  # fmt: skip

    def see(self, s):
        return (*one_hot(s[1][-1], self.values), *one_hot(s[2][-1], self.values))

    def matches(self, s, fields):
        return (fields.card, fields.query) == (s[1][-1], s[2][-1])


class CopyTwin(Twin):
    """State: (t, symbols so far)."""

    def __init__(self, n, q, delay, backwards):
        self.n, self.actions, self.delay, self.backwards = n, q, delay, backwards

    def starts(self):
        return [(1 / self.actions, (0, (v,))) for v in range(self.actions)]

    def after(self, s, action):
        t, shown = s
        reward = 0
        if t >= self.n + self.delay:
            order = shown[::-1] if self.backwards else shown
            reward = (1 if action == order[t - self.n - self.delay] else -1) / self.n
        over = t + 1 == 2 * self.n + self.delay
        if t + 1 >= self.n:
            return [(1, (t + 1, shown), reward, over)]
        return [(1 / self.actions, (t + 1, (*shown, v)), reward, over) for v in range(self.actions)]

    def see(self, s):
        t, shown = s
        symbol = shown[-1] if t < self.n else None
        return (*one_hot(symbol, self.actions), float(t >= self.n + self.delay))

    def matches(self, s, fields):
        return fields.memory[len(s[1]) - 1] == s[1][-1]


def permute(word):
    """Where five points in a ring end: symbol 0 turns all five, symbol 1 the first four. The place of point 0."""
    places = [0, 1, 2, 3, 4]
    for symbol in word:
        places = [(p + 1) % 5 if symbol == 0 else {0: 1, 1: 2, 2: 3, 3: 0, 4: 4}[p] for p in places]
    return places[0]


def xor(word):
    """Symbols: 0 blank, 1 the cue 0, 2 the cue 1."""
    return sum(symbol - 1 for symbol in word if symbol > 0) % 2


class TrackingTwin(Twin):
    """State: (t, rows, word so far)."""

    tasks = {  # symbols, classes, the class of a word
        "parity": (2, 2, lambda word: sum(word) % 2),
        "even_pairs": (2, 2, lambda word: int(word[0] == word[-1])),
        "mod5": (3, 5, lambda word: (word.count(1) - word.count(2)) % 5),
        "s5": (2, 5, permute),
        "temporal_xor": (3, 2, xor),
    }

    def __init__(self, task, lengths):
        self.task, self.lengths = task, lengths
        self.symbols, classes, self.answer = self.tasks[task]
        self.actions = classes + 1

    def next_symbols(self, rows, word):
        if self.task != "temporal_xor":
            return [(1 / self.symbols, v) for v in range(self.symbols)]
        left, cues = rows - 1 - len(word), 2 - sum(v > 0 for v in word)
        p = cues / left
        return [(q, v) for q, v in ((1 - p, 0), (p / 2, 1), (p / 2, 2)) if q > 0]

    def starts(self):
        return [(p / len(self.lengths), (0, rows, (v,))) for rows in self.lengths for p, v in self.next_symbols(rows, ())]

    def after(self, s, action):
        t, rows, word = s
        if t + 1 == rows:
            reward = -1 if action == self.actions - 1 else int(action == self.answer(word))
            return [(1, (t + 1, rows, word), reward, True)]
        if t + 2 == rows:
            return [(1, (t + 1, rows, word), 0, False)]
        return [(p, (t + 1, rows, (*word, v)), 0, False) for p, v in self.next_symbols(rows, word)]

    def see(self, s):
        t, rows, word = s
        return one_hot(self.symbols if t + 1 >= rows else word[-1], self.symbols + 1)

    def matches(self, s, fields):
        return fields.length == s[1] and (s[0] + 1 >= s[1] or fields.symbol == s[2][-1])

    def won(self, s, rewards):
        return rewards[-1] == 1


class CatchTwin(Twin):
    """State: (t, row, column, basket, caught)."""

    actions = 3

    def __init__(self, runs):
        self.runs = runs

    def drops(self):
        return [(1 / 24, column, basket) for column in range(6) for basket in range(1, 5)]

    def starts(self):
        return [(p, (0, 0, column, basket, 0)) for p, column, basket in self.drops()]

    def after(self, s, action):
        t, row, column, basket, caught = s
        if row == 6:
            return [(p, (t + 1, 0, c, b, caught), 0, False) for p, c, b in self.drops()]
        row, basket = row + 1, min(max(basket + [-1, 0, 1][action], 0), 6)
        if row == 6 and column == basket:
            caught += 1
        over = t + 1 == 7 * (self.runs - 1) + 6
        return [(1, (t + 1, row, column, basket, caught), caught if over else 0, over)]

    def see(self, s):
        _, row, column, basket, _ = s
        board = [[0] * 7 for _ in range(7)]
        board[row][column] = -1
        board[6][basket] = 1
        return tuple(itertools.chain(*board))

    def matches(self, s, fields):
        return (fields.fruit, fields.basket, fields.caught) == s[2:]

    def won(self, s, rewards):
        return s[4] == self.runs
