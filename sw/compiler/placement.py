"""Places for tensors in activation memory."""

import random


def place_tensors(sizes: dict[int, int], lives: dict[int, tuple[int, int]], limit: int) -> dict[int, int]:
    """Address of each tensor so that no two alive at one time overlap; lives are (first, last) layer, both inclusive.

    First fit in several orders (largest first, by birth, then seeded random ones), each tensor at the lowest or, in
    turn, the highest free address below the limit; the first order that fits wins, else the one with the lowest peak.
    """

    def first_fit(order, ends):
        out: dict[int, int] = {}
        for t in order:
            first, last = lives[t]
            busy = sorted((a, a + sizes[u]) for u, a in out.items() if not (last < lives[u][0] or lives[u][1] < first))
            gaps, at = [], 0
            for a, e in busy:
                if a - at >= sizes[t]:
                    gaps.append((at, a))
                at = max(at, e)
            if limit - at >= sizes[t]:
                gaps.append((at, limit))
            if not gaps:
                gaps = [(at, at + sizes[t])]
            out[t] = gaps[-1][1] - sizes[t] if ends[t] else gaps[0][0]
        return out

    rng = random.Random(1)
    tensors = sorted(sizes)
    low = dict.fromkeys(tensors, False)
    turns = {t: i % 2 == 1 for i, t in enumerate(sorted(tensors, key=lambda t: lives[t]))}
    orders = [(sorted(tensors, key=lambda t: -sizes[t]), low), (sorted(tensors, key=lambda t: lives[t]), turns)]
    best, best_peak = {}, None
    for attempt in range(200):
        if attempt < len(orders):
            order, ends = orders[attempt]
        else:
            order = sorted(tensors, key=lambda t: -sizes[t] * rng.uniform(0.3, 1.0))
            ends = {t: rng.random() < 0.5 for t in tensors}
        out = first_fit(order, ends)
        peak = max((a + sizes[t] for t, a in out.items()), default=0)
        if best_peak is None or peak < best_peak:
            best, best_peak = out, peak
        if best_peak <= limit:
            break
    return best
