"""The whole network: where each operator runs, what is fused, where tensors lie, and who waits for whom."""

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler import convolution, elementwise, pooling
from lepton.sw.compiler.convolution import Convolution
from lepton.sw.compiler.emitter import Emitter, Window
from lepton.sw.compiler.placement import place_tensors
from lepton.sw.compiler.program import CompileError, HostStep, Layer, NpuStep, Place, Program
from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import quantities

BINARY = ("ADD", "SUB", "MUL")
PADS = ("PAD", "PADV2")
TABLES = tuple(name for name in quantities.UNARY if name != "QUANTIZE")  # an entry scales QUANTIZE; it needs no table
KERNELS = {
    "MAX_POOL_2D": pooling.max_pool,
    "AVERAGE_POOL_2D": pooling.average_pool,
    "MEAN": pooling.mean,
    "QUANTIZE": elementwise.quantize,
    **dict.fromkeys(PADS, elementwise.pad),
    "CONCATENATION": elementwise.concatenation,
    **dict.fromkeys(BINARY, elementwise.binary),
    **dict.fromkeys(TABLES, elementwise.unary),
}
"""Layers without weights: function(emitter, operator, output tensor)."""


class Compiler(Emitter):
    """Compiles one model for one configuration."""

    def __init__(
        self,
        model: Model,
        config: NpuConfig,
        external: frozenset[int] = frozenset(),
        odd: frozenset[int] = frozenset(),
    ):
        """`odd`: tensors placed at odd addresses, when the configuration's reads are aligned."""
        super().__init__(model, config, external)
        self.odd = odd
        self.why_host = {op.index: self.supports(op) for op in model.operators}
        self.consumers: dict[int, list[int]] = {}
        """Operators that read a tensor; -1 for the host, which reads the outputs."""
        for op in model.operators:
            for t in op.inputs:
                if t >= 0:
                    self.consumers.setdefault(t, []).append(op.index)
        for t in model.outputs:
            self.consumers.setdefault(t, []).append(-1)

    # --- where an operator runs ------------------------------------------------------------------------------------

    def supports(self, op: Operator) -> str | None:
        """None if the array runs the operator, else why not (it then runs on the host)."""
        o = op.options
        for t in (*op.inputs, *op.outputs):
            if t >= 0 and self.tensor(t).dtype != "int8" and not self.tensor(t).constant:
                return f"{self.tensor(t).dtype} values"
        if op.op == "FULLY_CONNECTED":
            inputs = self.tensor(op.inputs[1]).shape[1]
            if self.tensor(op.inputs[0]).size != inputs:
                return "more than one input vector"
            return None if inputs < 2**15 else "more than 32767 inputs"
        if "filter_h" in o or op.op in (*PADS, "MEAN"):
            reason = self.limit_of_map(op)
            if reason is not None:
                return reason
        if self.config.compact and op.op in (*BINARY, *TABLES):
            return "a compact configuration has neither a second operand nor a table"
        if op.op in convolution.OPERATORS:
            return None
        if op.op in BINARY:
            shapes = {self.tensor(t).shape for t in (*op.inputs, *op.outputs)}
            same = len(shapes) == 1 and not any(self.tensor(t).constant for t in op.inputs)
            return None if same else "operands of different shapes or constants"
        if op.op == "MAX_POOL_2D":
            kh, kw, depth = o["filter_h"], o["filter_w"], self.config.acc_depth
            if kh * kw > depth:
                return f"a window of {kh}x{kw} needs {kh * kw} accumulators, acc_depth is {depth}"
            return None if max(kh, kw) < 16 else "a window above 15"
        if op.op == "AVERAGE_POOL_2D":
            counts = {count for _, count in pooling.average_regions(Window.of(self.model, op))}
            return None if all(map(pooling.average_scale, counts)) else "no exact scale for this window"
        if op.op in quantities.UNARY or op.op == "RESHAPE":
            return None
        if op.op in PADS:
            pads = o["paddings"]
            flat = len(pads) == 4 and not any(pads[0]) and not any(pads[3])
            return None if flat else "only height and width are padded"
        if op.op == "CONCATENATION":
            return None if not any(self.tensor(t).constant for t in op.inputs) else "a constant input"
        if op.op == "MEAN":
            spatial = len(self.tensor(op.inputs[0]).shape) == 4 and sorted(o["axis"]) == [1, 2]
            return None if spatial else "only means over height and width"
        return "computed on the host"

    def limit_of_map(self, op: Operator) -> str | None:
        """Which of the instructions' fields a map, or a window on it, is too large for; None if none."""
        if any(len(self.tensor(t).shape) == 4 and self.tensor(t).shape[0] > 1 for t in (op.inputs[0], op.outputs[0])):
            return "a batch of more than one"
        sides = [self.hwc(op.inputs[0])] + ([self.hwc(op.outputs[0])] if op.op in PADS else [])
        for h, w, c in sides:
            if w * c >= 2**15:
                return "a row of more than 32767 bytes"
            if h >= 2**11 or w >= 2**12:
                return "more than 2047 rows or 4095 columns"
        if "filter_h" not in op.options:
            return None
        k = Window.of(self.model, op)
        if max(k.sy, k.sx) > 15 and not (op.op == "AVERAGE_POOL_2D" and k.oh == k.ow == 1):
            return "stride above 15"
        if op.op not in convolution.OPERATORS and k.oh == k.ow == 1:
            return None
        if (k.kh - 1) * k.dy > 127 or ((k.kw - 1) * k.dx + 1) * k.c >= 2**15:
            return "a window of more than 128 rows or 32767 bytes"
        return None

    # --- fusion ----------------------------------------------------------------------------------------------------

    def single_use(self, t) -> bool:
        """Whether a tensor has one reader, which is an operator."""
        return len(self.consumers.get(t, [])) == 1 and self.consumers[t][0] >= 0

    def fuse(self) -> list[tuple[str, list[Operator]]]:
        """Groups of operators that one layer computes: (`npu`, `host` or `alias`, operators)."""
        ops = {op.index: op for op in self.model.operators}
        done: set[int] = set()
        layers = []
        for op in self.model.operators:
            if op.index in done:
                continue
            done.add(op.index)
            if self.why_host[op.index] is not None:
                layers.append(("host", [op]))
                continue
            if op.op == "RESHAPE":
                layers.append(("alias", [op]))
                continue
            group = [op]
            if op.op in ("CONV_2D", "DEPTHWISE_CONV_2D") and self.single_use(op.outputs[0]):
                following = ops[self.consumers[op.outputs[0]][0]]
                if self.why_host[following.index] is None and following.index not in done:
                    if following.op in ("ADD", "SUB"):
                        other = [t for t in following.inputs if t != op.outputs[0]]
                        before = self.make_ready(other[0], op, done) if other else None
                        if before is not None:
                            done.update(o.index for o in [*before, following])
                            layers += [("npu", [o]) for o in before]
                            group.append(following)
                    elif following.op == "MAX_POOL_2D" and self.pool_fuses(following):
                        done.add(following.index)
                        group.append(following)
            result = group[-1].outputs[0]
            if op.op not in TABLES and self.single_use(result):
                following = ops[self.consumers[result][0]]
                supported = self.why_host[following.index] is None
                if following.op in quantities.UNARY and supported and following.index not in done:
                    done.add(following.index)
                    group.append(following)
            layers.append(("npu", group))
        return layers

    def make_ready(self, tensor: int, op: Operator, done: set[int]) -> list[Operator] | None:
        """Operators to run before `op` so that the other operand of its residual ADD is there; None if none help.

        The other branch may end in a smaller convolution that comes later in the file: run first, it leaves the ADD to
        the larger one, behind whose multiplications the tail's work hides.
        """
        made = {t for o in self.model.operators if o.index in done and o is not op for t in o.outputs}
        made.update(self.model.inputs)
        if tensor in made:
            return []
        (producer,) = (o for o in self.model.operators if tensor in o.outputs)
        activations = [t for t in producer.inputs if t >= 0 and not self.tensor(t).constant]
        small = producer.op == "CONV_2D" and self.macs(producer) <= self.macs(op)
        on_array = self.why_host[producer.index] is None
        if small and on_array and producer.index not in done and made.issuperset(activations):
            return [producer]
        return None

    def pool_fuses(self, pool: Operator) -> bool:
        """Windows tile the map without overlap or padding and fit a bank; the clamp commutes with the maximum."""
        k = Window.of(self.model, pool)
        tiles = (k.kh, k.kw) == (k.sy, k.sx) and not k.padded
        return tiles and pool.options["activation"] == "NONE" and k.kh * k.kw <= self.config.acc_depth

    # --- memory ----------------------------------------------------------------------------------------------------

    def plan_memory(self, layers):
        """Place every tensor that lies in activation memory, by lifetime, largest first."""
        alias, born, dies, sizes, stacks = {}, {}, {}, {}, {}

        def root(t):
            while t in alias:
                t = alias[t]
            return t

        self.root = root
        end = len(layers)
        for t in self.model.inputs:
            born[t], sizes[t] = -1, self.tensor(t).size
        for i, (kind, ops) in enumerate(layers):
            if kind == "alias":
                alias[ops[0].outputs[0]] = ops[0].inputs[0]
            for op in ops:
                for t in op.inputs:
                    if t >= 0 and not self.tensor(t).constant and root(t) in born:
                        dies[root(t)] = i
            if kind == "alias":
                continue
            out = ops[-1].outputs[0]
            born[out], sizes[out] = i, self.tensor(out).size
            source = ops[0].inputs[0]
            if kind == "npu" and ops[0].op in convolution.OPERATORS:
                if source in self.model.inputs and self.single_use(source):
                    stacks[source] = stack = convolution.stacking(self, ops[0])
                    sizes[source] = stack["size"] if stack else sizes[source]
        for t in self.model.outputs:
            dies[root(t)] = end
        lives = {t: (born[t], dies.get(t, born[t])) for t in born}
        align = self.config.act_align
        room = {t: -(-(size + (t in self.odd)) // align) * align for t, size in sizes.items()}
        addresses = {t: a + (t in self.odd) for t, a in place_tensors(room, lives, self.config.act_bytes).items()}
        for t, address in addresses.items():
            self.program.places[t] = Place(address, sizes[t], stacks.get(t))
        for t in alias:
            self.program.places[t] = self.place(root(t))
        needed = max((a + sizes[t] for t, a in addresses.items()), default=0)
        self.program.peak_bytes = max(
            sum(sizes[t] for t, (first, last) in lives.items() if first <= i <= last) for i in range(-1, end + 1)
        )
        if needed > self.config.act_bytes:
            raise CompileError(
                f"{self.model.name}: activations need {needed:,} bytes, configuration {self.config.name!r} has "
                f"{self.config.act_bytes:,}: raise act_bytes or use a smaller input"
            )

    # --- layers ----------------------------------------------------------------------------------------------------

    def macs(self, op: Operator) -> int:
        if op.op not in convolution.OPERATORS:
            return 0
        weights = self.tensor(op.inputs[1]).shape
        if op.op == "FULLY_CONNECTED":
            return weights[0] * weights[1]
        per = weights[1] * weights[2] * (weights[3] if op.op == "CONV_2D" else 1)
        return self.tensor(op.outputs[0]).size * per

    def layer(self, ops: list[Operator]):
        """Emit the instructions of one group of fused operators."""
        out = ops[-1].outputs[0]
        self.mapped = len(ops) > 1 and ops[-1].op in quantities.UNARY
        if self.mapped:
            *ops, function = ops
            self.table(quantities.unary_table(self.model, function))
        op = ops[0]
        if op.op not in convolution.OPERATORS:
            KERNELS[op.op](self, op, out)
            return
        conv = Convolution(self, op)
        if len(ops) == 1:
            conv.write(out)
        elif ops[1].op == "MAX_POOL_2D":
            conv.write_pooled(ops[1], out)
        else:
            conv.write_sum(ops[1], out)

    def compile(self) -> Program:
        program = self.program
        layers = self.fuse()
        self.plan_memory(layers)
        producer: dict[int, int] = {}
        spans: list[tuple[int, int] | None] = []  # words of each layer
        synced, segment_start, running = -1, 0, False
        for i, (kind, ops) in enumerate(layers):
            if kind == "alias":
                producer[ops[0].outputs[0]] = producer.get(ops[0].inputs[0], -1)
                spans.append(None)
                continue
            if kind == "host":
                if running:
                    self.emit(isa.END)
                    running = False
                program.steps.append(HostStep(ops[0].index))
                segment_start = i + 1
                spans.append(None)
                continue
            if not running:
                program.steps.append(NpuStep(len(program.words)))
                running, synced = True, i - 1
            start = len(program.words)
            self.layer(ops)
            needs = max((producer.get(t, -1) for op in ops for t in op.inputs if t >= 0), default=-1)
            if needs > synced and needs >= segment_start:
                self.set_flag(spans[needs], isa.TAIL, "post", last=True)
                self.set_flag((start, len(program.words)), isa.MUL, "wait", last=False)
                synced = needs
            spans.append((start, len(program.words)))
            for op in ops:
                producer[op.outputs[0]] = i
            indexes, name = tuple(op.index for op in ops), "+".join(op.op for op in ops)
            macs = sum(self.macs(op) for op in ops)
            program.layers.append(Layer(indexes, name, macs, start, len(program.words)))
        if running:
            self.emit(isa.END)
        program.tiles = b"".join(self.tile_words)
        program.external = b"".join(self.external_words)
        program.params = b"".join(self.param_words)
        return program

    def set_flag(self, span, op, name, last):
        """Set a one-bit flag in the first or last instruction of a kind within a layer's words."""
        at, found = span[0], None
        while at < span[1]:
            kind, _ = isa.decode(self.program.words, at)
            if kind is op:
                found = at
                if not last:
                    break
            at += kind.words
        bit, _ = op.offset(name)
        self.program.words[found + bit // 64] |= 1 << bit % 64

    def odd_sources(self) -> frozenset[int]:
        """Tensors that are read from odd addresses, in steps that are even.

        Raises CompileError where a layer's reads cannot all be even, wherever its input lies.
        """
        program, size = self.program, isa.word_bytes(isa.Region.WEIGHT, self.config)
        tiles, found = [], set()
        descriptors = [int.from_bytes(raw[: isa.DESCRIPTOR_BYTES], "little") for raw in self.tile_words]
        last_bit = isa.DESCRIPTOR_BYTES * 8 - 1
        assert all(len(raw) == size for raw in self.tile_words)
        for layer in program.layers:
            at = layer.first_word
            parities = set()
            while at < layer.end_word:
                op, v = isa.decode(program.words, at)
                at += op.words
                if op is isa.LOAD:
                    tiles += descriptors[v["tile"] : v["tile"] + v["count"]]
                if op is not isa.MUL:
                    continue
                steps = [v["x_step"]] * (v["width"] > 1) + [v["row_step"]] * (v["height"] > 1 or v["depthwise"])
                if any(step & 1 for step in steps):
                    parities |= {0, 1}
                for group in range(v["groups"]):
                    while True:
                        tile = tiles.pop(0)
                        parities.add((v["address"] + group * v["group_step"] + tile) & 1)
                        if tile >> last_bit:
                            break
            if len(parities) > 1:
                raise CompileError(
                    f"{self.model.name}: layer {layer.name} reads activations at odd addresses, configuration "
                    f"{self.config.name!r} reads only even ones (act_align=2): use channels in even numbers, or a "
                    f"configuration without compact"
                )
            if parities == {1}:
                found.add(self.root(self.model.operators[layer.operators[0]].inputs[0]))
        return frozenset(found)

    def check_fit(self):
        cfg = self.config
        external = len(self.program.external)
        if cfg.external_bytes and external > cfg.external_bytes:
            raise CompileError(
                f"{self.model.name}: weights need external_bytes={external:,} besides "
                f"weight_tiles={cfg.resident_tiles:,}, configuration {cfg.name!r} "
                f"has {cfg.external_bytes:,}: use a larger configuration"
            )
        for what, have, limit, name in (
            ("weights", len(self.tile_words), cfg.resident_tiles, "weight_tiles"),
            ("parameters", len(self.param_words), cfg.params, "params"),
            ("instructions", len(self.program.words), cfg.program_words, "program_words"),
        ):
            if have > limit:
                raise CompileError(
                    f"{self.model.name}: {what} need {name}={have:,}, configuration {cfg.name!r} has {limit:,}: "
                    f"use a larger configuration"
                )
