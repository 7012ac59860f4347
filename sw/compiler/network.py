"""The whole network: where each operator runs, what is fused, where tensors lie, and who waits for whom."""

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler import convolution, elementwise, pooling
from lepton.sw.compiler.convolution import Convolution
from lepton.sw.compiler.emitter import ADDRESS_MASK, Emitter, value_by_value
from lepton.sw.compiler.movement import MOVERS, NotStrided
from lepton.sw.compiler.placement import place_tensors
from lepton.sw.compiler.program import FitError, HostStep, Layer, LayerError, NpuStep, Place, Program
from lepton.sw.compiler.strided import View, move
from lepton.sw.graph.model import Model, ModelError, Operator
from lepton.sw.reference import quantities

MOST_MEMBERS = 64  # of an expression
BINARY = ("ADD", "SUB", "MUL")
EXTREMES = ("MAXIMUM", "MINIMUM")
SUMS = ("MEAN", "SUM")
REDUCTIONS = ("REDUCE_MAX", "REDUCE_MIN")
ACCESSES = ("READ_VARIABLE", "ASSIGN_VARIABLE")
PADS = ("PAD", "PADV2")
KERNELS = {
    "MAX_POOL_2D": pooling.max_pool,
    "AVERAGE_POOL_2D": pooling.average_pool,
    **dict.fromkeys(SUMS, pooling.mean),
    **dict.fromkeys(REDUCTIONS, pooling.extreme),
    "QUANTIZE": elementwise.quantize,
    "TRANSPOSE_CONV": convolution.write_transposed,
    **dict.fromkeys(MOVERS, elementwise.movement),
    **dict.fromkeys(BINARY, elementwise.binary),
    **dict.fromkeys(EXTREMES, elementwise.maximum),
    "PRELU": elementwise.prelu,
    "RESIZE_BILINEAR": elementwise.bilinear,
}
"""Layers without weights: function(emitter, operator, output tensor). A function of one value needs none."""


class Compiler(Emitter):
    """Compiles one model for one configuration."""

    def __init__(
        self,
        model: Model,
        config: NpuConfig,
        external: frozenset[int] = frozenset(),
        odd: frozenset[int] = frozenset(),
        host: dict[int, str] | None = None,
        apart: frozenset[int] = frozenset(),
    ):
        """`odd`: tensors placed at odd addresses, when the configuration's reads are aligned.

        `host`: operators that the array turned out not to compute, and why. `apart`: those that join tensors by a copy,
        as these cannot be made in their place.
        """
        super().__init__(model, config, external)
        self.odd = odd
        self.host = host or {}
        self.apart = apart
        self.views: dict[int, tuple[int, int]] = {}
        """Tensors that are a part of another: that tensor, and the first byte in it."""
        self.kept = self.find_variables()
        self.why_host = {op.index: self._reason(op) for op in model.operators}
        """Why the host runs an operator; None for those of the array."""
        self.readers: dict[int, set[int]] = {t: {-1} for t in model.outputs}
        """Operators that name a tensor among their inputs; -1 for the host, which reads the outputs."""
        for op in model.operators:
            for t in op.inputs:
                self.readers.setdefault(t, set()).add(op.index)
        self.absorbed: set[int] = set()
        """Operators of expressions and paddings that are part of another operator's layer."""
        self.find_expressions()
        self.find_paddings()
        self.consumers: dict[int, list[int]] = {}
        """Operators that read a tensor; -1 for the host, which reads the outputs."""
        for op in model.operators:
            once = op.index in self.expressions or op.index in self.paddings
            for t in self.activations(op) if once else op.inputs:
                if t >= 0 and op.index not in self.absorbed:
                    self.consumers.setdefault(t, []).append(op.index)
        for t in model.outputs:
            self.consumers.setdefault(t, []).append(-1)

    # --- where an operator runs ------------------------------------------------------------------------------------

    def _reason(self, op: Operator) -> str | None:
        """None if the array runs the operator, else why not; found out before any operators are joined."""
        if op.index in self.host:
            return self.host[op.index]
        if any(self.tensor(t).variable for t in (*op.inputs, *op.outputs) if t >= 0):
            return "works on state"
        if op.op in ACCESSES:
            return None if self.variable(op) in self.kept else "a variable that not only the array works on"
        for t in (*self.activations(op), *op.outputs):
            if self.tensor(t).dtype != "int8":
                return f"{self.tensor(t).dtype} values"
        try:
            return self._supports(op)
        except (ModelError, NotStrided) as error:
            return str(error)

    def _supports(self, op: Operator) -> str | None:
        o = op.options
        if op.op in convolution.OPERATORS or op.op == "TRANSPOSE_CONV":
            if not self.tensor(op.inputs[1]).constant:
                return "weights that are not constant"
            if self.tensor(op.inputs[1]).dtype not in ("int8", "int4"):  # int4 are stored as int8
                return f"{self.tensor(op.inputs[1]).dtype} weights"
        if op.op == "FULLY_CONNECTED":
            inputs = self.tensor(op.inputs[1]).shape[1]
            if self.tensor(op.inputs[0]).size // inputs >= 2**11:
                return "more than 2047 input vectors"
            return None if inputs < 2**15 else "more than 32767 inputs"
        if op.op == "TRANSPOSE_CONV":
            n, h, w, c = self.tensor(op.inputs[2]).shape
            if n > 1:
                return "a batch of more than one"
            if w * c >= 2**15 or h >= 2**11 or w >= 2**12 or o["filter_h"] // o["stride_h"] > 127:
                return "a row of more than 32767 bytes, more than 2047 rows or 4095 columns"
            quantities.conv_parameters(self.model, op)
            return None
        if "filter_h" in o:
            reason = self.limit_of_map(op)
            if reason is not None:
                return reason
        if op.op in convolution.OPERATORS:
            return None
        if op.op == "QUANTIZE":
            quantities.quantize_parameters(self.model, op)
            return None
        moving = self.activations(op)
        if len(moving) == 1 and value_by_value(self.model, op) and self.expression(moving[0], [op]):
            return "a compact configuration has no table" if self.config.compact else None
        if op.op == "PRELU":
            if self.config.compact:
                return "a compact configuration has no second operand"
            if not self.tensor(op.inputs[1]).constant:
                return "slopes that are not constant"
            return None if elementwise.is_maximum(self, op) else "a slope above 1"
        if op.op == "RESIZE_BILINEAR":
            return None if self.tensor(op.inputs[0]).shape[0] == 1 else "a batch of more than one"
        if op.op in (*BINARY, *EXTREMES):
            alone = op.op == "MAXIMUM" or (op.op == "MUL" and elementwise.few_constants(self, op))
            if self.config.compact and not alone:
                return "a compact configuration has neither a second operand nor a table"
            if op.op in BINARY:
                parameters = quantities.mul_parameters if op.op == "MUL" else quantities.add_parameters
                parameters(self.model, op)
            return None
        if op.op == "MAX_POOL_2D":
            kh, kw, depth = o["filter_h"], o["filter_w"], self.config.acc_depth
            if kh * kw > depth:
                return f"a window of {kh}x{kw} needs {kh * kw} accumulators, acc_depth is {depth}"
            return None if max(kh, kw) < 16 else "a window above 15"
        if op.op == "AVERAGE_POOL_2D":
            counts = {count for _, count in pooling.average_regions(self.window(op))}
            return None if all(map(pooling.average_scale, counts)) else "no exact scale for this window"
        if op.op in MOVERS:
            self.moves(op)
            return None
        if op.op in SUMS:
            quantities.mean_parameters(self.model, op)
            return None
        if op.op in REDUCTIONS:
            if op.op == "REDUCE_MIN" and self.config.compact:
                return "a compact configuration has no table"
            return None
        return "computed on the host"

    @staticmethod
    def _number(op: Operator, model: Model) -> int:
        handle = model.tensors[op.inputs[0]].data
        return -1 if handle is None else int(handle.flat[0])

    def variable(self, op: Operator) -> int:
        """Stands for the variable of a READ_VARIABLE or ASSIGN_VARIABLE where tensors have their index."""
        return -1 - self._number(op, self.model)

    def find_variables(self) -> dict[int, int]:
        """Variables that can stay in activation memory, and their bytes: of int8, and of the first graph but for what
        CALL_ONCE assigns before."""
        if any(op.op in ("IF", "WHILE") for op in self.model.operators):
            return {}
        out = {-1 - n: v.bytes for n, v in enumerate(self.model.variables)}
        for op in self.model.operators:
            if op.op in ACCESSES:
                t = self.tensor((op.inputs[1:] or op.outputs)[0])
                fits = t.dtype == "int8" and not t.constant and op.index not in self.host
                if not fits or t.size != out.get(self.variable(op)):
                    out.pop(self.variable(op), None)
        return out

    def sources(self, op: Operator) -> list[int]:
        """The activations that an operator reads, or the variable."""
        return [self.variable(op)] if op.op == "READ_VARIABLE" else self.activations(op)

    def results(self, op: Operator) -> tuple[int, ...]:
        """The tensors that an operator makes, or the variable it assigns."""
        return (self.variable(op),) if op.op == "ASSIGN_VARIABLE" else op.outputs

    def size_of(self, t: int) -> int:
        return self.kept[t] if t < 0 else self.tensor(t).size

    def view_of(self, op: Operator) -> dict[int, tuple[int, int]] | None:
        """For an operator whose outputs are parts of its input as they lie: of each, that tensor and the first byte."""
        if op.op not in MOVERS:
            return None
        pieces = self.moves(op)
        if len(pieces) != len(op.outputs) or not all(p.contiguous for p in pieces):
            return None
        if any(
            p.source is None or p.start % self.config.act_align or p.size != self.tensor(p.target).size for p in pieces
        ):
            return None
        return {p.target: (p.source, p.start) for p in pieces if p.source is not None}

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
        k = self.window(op)
        if max(k.sy, k.sx) > 15 and not (op.op == "AVERAGE_POOL_2D" and k.oh == k.ow == 1):
            return "stride above 15"
        if op.op not in convolution.OPERATORS and k.oh == k.ow == 1:
            return None
        if (k.kh - 1) * k.dy > 127 or ((k.kw - 1) * k.dx + 1) * k.c >= 2**15:
            return "a window of more than 128 rows or 32767 bytes"
        return None

    # --- fusion ----------------------------------------------------------------------------------------------------

    def find_expressions(self):
        """Operators that together are a function of one tensor, as large as can be, from the last on."""
        if self.config.compact:
            return
        ops = {op.index: op for op in self.model.operators}
        maker = {t: op for op in self.model.operators for t in op.outputs}

        def fits(op):
            return self.why_host[op.index] is None and value_by_value(self.model, op)

        for op in reversed(self.model.operators):
            if op.index in self.absorbed or not fits(op):
                continue
            members, open_ends, best = {op.index}, set(self.activations(op)), None
            while open_ends:
                if len(open_ends) == 1:
                    best = next(iter(open_ends)), set(members)
                inner = [t for t in open_ends if t in maker and self.readers[t] <= members and fits(maker[t])]
                if not inner or len(members) == MOST_MEMBERS:
                    break
                t = max(inner, key=lambda t: maker[t].index)
                members.add(maker[t].index)
                open_ends = open_ends - {t} | set(self.activations(maker[t]))
            if best is None:
                continue
            root, members = best
            found = self.expression(root, [ops[i] for i in sorted(members)])
            if found is not None:
                self.expressions[op.index] = found
                self.absorbed |= members - {op.index}

    def find_paddings(self):
        """PADs with the zero point, in height and width, that only one convolution reads."""
        ops = {op.index: op for op in self.model.operators}
        for pad in self.model.operators:
            if pad.op not in PADS or self.why_host[pad.index] is not None:
                continue
            following = self.readers.get(pad.outputs[0], set())
            if len(following) != 1 or following == {-1}:
                continue
            conv = ops[next(iter(following))]
            if conv.op not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                continue
            if self.why_host[conv.index] is not None or conv.inputs[0] != pad.outputs[0]:
                continue
            if self.pads_map(pad) and pad.options["value"] == self.tensor(conv.inputs[0]).zero_point:
                self.paddings[conv.index] = pad
                self.absorbed.add(pad.index)

    def single_use(self, t) -> bool:
        """Whether a tensor has one reader, which is an operator."""
        return len(self.consumers.get(t, [])) == 1 and self.consumers[t][0] >= 0

    def fuse(self) -> list[tuple[str, list[Operator]]]:
        """Groups of operators that one layer computes: (`npu`, `host` or `alias`, operators)."""
        ops = {op.index: op for op in self.model.operators}
        done: set[int] = set()
        layers = []
        for op in self.model.operators:
            if op.index in done or op.index in self.absorbed:
                continue
            done.add(op.index)
            if self.why_host[op.index] is not None:
                layers.append(("host", [op]))
                continue
            if self.view_of(op) is not None or op.op == "READ_VARIABLE":
                layers.append(("alias", [op]))
                continue
            group = [op]
            if op.op in ("CONV_2D", "DEPTHWISE_CONV_2D") and self.single_use(op.outputs[0]):
                following = ops[self.consumers[op.outputs[0]][0]]
                if self.why_host[following.index] is None and following.index not in done:
                    if following.op in ("ADD", "SUB") and self.same_shapes(following):
                        other = [t for t in following.inputs if t != op.outputs[0]]
                        before = self.make_ready(other[0], op, done) if other else None
                        if before is not None:
                            done.update(o.index for o in [*before, following])
                            layers += [("npu", [o]) for o in before]
                            group.append(following)
                    elif following.op == "MAX_POOL_2D" and self.pool_fuses(following):
                        done.add(following.index)
                        group.append(following)
            result = self.results(group[-1])[0]
            if not self.uses_table(group[-1]) and self.single_use(result) and len(op.outputs) == 1:
                following = ops[self.consumers[result][0]]
                supported = self.why_host[following.index] is None and following.index not in done
                if supported and following.index in self.expressions:
                    done.add(following.index)
                    group.append(following)
            layers.append(("npu", group))
        self.find_views(layers)
        return layers

    def uses_table(self, op: Operator) -> bool:
        """Whether the operator alone needs the table for its own bytes."""
        return op.op in ("MINIMUM", "REDUCE_MIN") or (op.index in self.expressions and not self.only_scales(op))

    def only_scales(self, op: Operator) -> bool:
        """Whether the operator is a QUANTIZE alone, which a scale computes as well as a table."""
        return op.op == "QUANTIZE" and len(self.expressions[op.index].ops if op.index in self.expressions else "1") == 1

    def find_views(self, layers: list[tuple[str, list[Operator]]]):
        """Which tensors lie inside others: views, and parts of a concatenation that are made in their place."""
        made = {ops[-1].outputs[0] for kind, ops in layers if kind == "npu" and len(ops[-1].outputs) == 1}
        for kind, ops in layers:
            if kind == "alias":
                self.views |= self.view_of(ops[0]) or {}
        self.find_reads(layers)
        for i, (kind, ops) in enumerate(layers):
            op = ops[0]
            if kind != "npu" or len(ops) > 1 or op.op not in ("CONCATENATION", "PACK") or op.index in self.apart:
                continue
            pieces = self.moves(op)
            whole = [p for p in pieces if p.contiguous and p.size == self.tensor(p.source).size]
            for p in whole:
                once = sum(q.source == p.source for q in pieces) == 1 and self.single_use(p.source)
                even = p.target_start % self.config.act_align == 0
                if once and even and p.source in made and p.source not in self.views:
                    self.views[p.source] = op.outputs[0], p.target_start
                    self.in_place[p.source] = op.index
            if len(pieces) == sum(self.in_place.get(p.source, -1) == op.index for p in pieces if p.source is not None):
                layers[i] = ("alias", ops)

    def find_reads(self, layers: list[tuple[str, list[Operator]]]):
        """What is read of a variable is a view of it, unless it is still wanted when the variable has a new value."""
        last: dict[int, int] = dict.fromkeys((self.root(t)[0] for t in self.model.outputs), len(layers))
        for i, (kind, ops) in enumerate(layers):
            for t in (t for op in ops for t in self.activations(op) if kind != "alias"):
                last[self.root(t)[0]] = max(i, last.get(self.root(t)[0], 0))
        for i, (kind, ops) in enumerate(layers):
            if kind == "alias" and ops[0].op == "READ_VARIABLE":
                variable, t = self.variable(ops[0]), ops[0].outputs[0]
                assigned = (k for k, (_, o) in enumerate(layers) if o[0].op == "ASSIGN_VARIABLE" and k > i)
                if any(self.variable(layers[k][1][0]) == variable and k <= last.get(t, i) for k in assigned):
                    layers[i] = ("npu", ops)
                else:
                    self.views[t] = variable, 0

    def same_shapes(self, op: Operator) -> bool:
        """Whether the operands are two activations of the output's shape."""
        shapes = {self.tensor(t).shape for t in (*op.inputs, *op.outputs)}
        return len(shapes) == 1 and not any(self.tensor(t).constant for t in op.inputs)

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
        k = self.window(pool)
        tiles = (k.kh, k.kw) == (k.sy, k.sx) and not k.padded
        return tiles and pool.options["activation"] == "NONE" and k.kh * k.kw <= self.config.acc_depth

    # --- memory ----------------------------------------------------------------------------------------------------

    def root(self, t: int) -> tuple[int, int]:
        """The tensor in which another lies, and its first byte there."""
        at = 0
        while t in self.views:
            t, offset = self.views[t]
            at += offset
        return t, at

    def plan_memory(self, layers):
        """Place every tensor that the array reads or writes, by lifetime, largest first."""
        born, dies, stacks = {}, {}, {}
        on_array: set[int] = set()
        end = len(layers)
        for t in (*self.model.inputs, *self.kept):
            born[self.root(t)[0]] = -1
        for i, (kind, ops) in enumerate(layers):
            if kind == "alias":
                continue
            inner = {t for op in ops[:-1] for t in op.outputs}
            reads = {self.root(t)[0] for op in ops for t in self.sources(op) if t not in inner}
            writes = {self.root(t)[0] for t in self.results(ops[-1])}
            for t in writes:
                born.setdefault(t, i)
            for t in reads | writes:
                dies[t] = i
            if kind == "npu":
                on_array |= reads | writes
                source = self.activations(ops[0])[0] if self.activations(ops[0]) else -1
                if ops[0].op in convolution.OPERATORS and source in self.model.inputs and self.single_use(source):
                    stacks[source] = convolution.stacking(self, ops[0])
        for t in (*self.model.outputs, *self.kept):
            dies[self.root(t)[0]] = end
        sizes = {t: self.size_of(t) for t in born if t in on_array}
        sizes |= {t: stack["size"] for t, stack in stacks.items() if stack and t in sizes}
        lives = {t: (born[t], dies.get(t, born[t])) for t in sizes}
        align = self.config.act_align
        room = {t: -(-(size + (t in self.odd)) // align) * align for t, size in sizes.items()}
        addresses = {t: a + (t in self.odd) for t, a in place_tensors(room, lives, self.config.act_bytes).items()}
        self.program.span_bytes = max((a + sizes[t] for t, a in addresses.items()), default=0)
        if self.program.span_bytes > ADDRESS_MASK + 1:  # no address reaches so far: only to count the rest
            addresses = {t: int(t in self.odd) for t in addresses}
        for t, address in addresses.items():
            self.program.places[t] = Place(address, sizes[t], stacks.get(t))
        for t in self.views:
            source, at = self.root(t)
            if source in addresses:
                self.program.places[t] = Place(addresses[source] + at, self.tensor(t).size)
        self.program.peak_bytes = max(
            sum(sizes[t] for t, (first, last) in lives.items() if first <= i <= last) for i in range(-1, end + 1)
        )

    # --- layers ----------------------------------------------------------------------------------------------------

    def move_piece(self, target: View, source: View):
        move(self, target, source, self.identity_entry())

    def macs(self, op: Operator) -> int:
        """Multiplications of weights, or of two activations; those at places that are padding included."""
        out = self.tensor(op.outputs[0]).size if op.outputs else 0
        if op.op == "BATCH_MATMUL":
            left = self.tensor(op.inputs[0]).shape
            return out * left[-2 if op.options["adj_x"] else -1]
        if op.op == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            return 4 * out * sum(self.tensor(op.inputs[i]).shape[1] for i in (1, 5))
        if op.op == "SVDF":
            (filters, inputs), memory = self.tensor(op.inputs[1]).shape, self.tensor(op.inputs[2]).shape[1]
            return self.tensor(op.outputs[0]).shape[0] * filters * (inputs + memory)
        if op.op not in (*convolution.OPERATORS, "TRANSPOSE_CONV"):
            return 0
        weights = self.tensor(op.inputs[1]).shape
        if op.op == "TRANSPOSE_CONV":
            return self.tensor(op.inputs[2]).size * weights[0] * weights[1] * weights[2]
        if op.op == "FULLY_CONNECTED":
            return out * weights[1]
        per = weights[1] * weights[2] * (weights[3] if op.op == "CONV_2D" else 1)
        return out * per

    def layer(self, ops: list[Operator]):
        """Emit the instructions of one group of fused operators."""
        out = self.results(ops[-1])[0]
        self.mapped = len(ops) > 1 and ops[-1].index in self.expressions
        if self.mapped:
            self.table(self.expressions[ops[-1].index].table)
            ops = ops[:-1]
        op = ops[0]
        if op.op not in convolution.OPERATORS:
            if op.op in ACCESSES:
                source, size = (
                    self.variable(op) if op.op == "READ_VARIABLE" else op.inputs[1],
                    self.kept[self.variable(op)],
                )
                if self.root(source)[0] == self.root(out)[0]:
                    raise LayerError("a variable that is assigned a part of itself")
                elementwise.copy_bytes(self, source, out, size)
            elif op.index in self.expressions and not self.only_scales(op):
                elementwise.unary(self, op, out)
            elif op.op in PADS and self.pads_map(op):
                elementwise.pad(self, op, out)
            else:
                KERNELS[op.op](self, op, out)
            return
        conv = Convolution(self, op)
        if len(ops) == 1:
            conv.write(out)
        elif ops[1].op == "MAX_POOL_2D":
            conv.write_pooled(ops[1], out)
        else:
            conv.write_sum(ops[1], out)

    def with_absorbed(self, ops: list[Operator]) -> list[Operator]:
        """The operators of a layer with those that are part of them."""
        out = []
        for op in ops:
            out += [self.paddings[op.index]] if op.index in self.paddings else []
            out += self.expressions[op.index].ops if op.index in self.expressions else [op]
        return out

    def pads_map(self, op: Operator) -> bool:
        """Whether windows over the border of a map do the padding."""
        pads = op.options["paddings"]
        flat = len(pads) == 4 and not any(pads[0]) and not any(pads[3])
        return flat and self.limit_of_map(op) is None

    def compile(self) -> Program:
        """Raises CompileError; LayerError, with its operator, where that is for the host."""
        program = self.program
        program.why_host = {i: why for i, why in self.why_host.items() if why is not None}
        layers = self.fuse()
        self.plan_memory(layers)
        producer: dict[int, int] = {}
        spans: list[tuple[int, int] | None] = []  # words of each layer
        synced, segment_start, running = -1, 0, False
        for i, (kind, ops) in enumerate(layers):
            if kind == "alias":
                ready = max((producer.get(t, -1) for t in self.sources(ops[0])), default=-1)
                producer.update(dict.fromkeys(ops[0].outputs, ready))
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
            try:
                self.layer(ops)
            except LayerError as error:
                error.operator = ops[0].index
                raise
            needs = max((producer.get(t, -1) for op in ops for t in self.sources(op)), default=-1)
            if needs > synced and needs >= segment_start:
                self.set_flag(spans[needs], isa.TAIL, "post", last=True)
                self.set_flag((start, len(program.words)), isa.MUL, "wait", last=False)
                synced = needs
            spans.append((start, len(program.words)))
            for op in ops:
                producer.update(dict.fromkeys(self.results(op), i))
            whole = self.with_absorbed(ops)
            name, macs = "+".join(op.op for op in whole), sum(self.macs(op) for op in whole)
            indexes = tuple(op.index for op in whole if op.op not in PADS or op is ops[0])
            indexes += tuple(op.index for op in whole if op.index not in indexes)
            program.layers.append(Layer(indexes, name, macs, start, len(program.words)))
        if running:
            self.emit(isa.END)
        self.fill_memories()
        return program

    def fill_memories(self):
        """The program's weights and parameters are those that were added."""
        program = self.program
        program.tiles = b"".join(self.tile_words)
        program.external = b"".join(self.external_words)
        program.params = b"".join(self.param_words)
        tiles = self.tile_words.shared + self.external_words.shared
        program.shared = {isa.Region.WEIGHT: tiles, isa.Region.PARAM: self.param_words.shared}

    def set_flag(self, span, op, name, last):
        """Set a one-bit flag in the first or last instruction of a kind within a layer's words."""
        found = (at for at, kind, _ in isa.instructions(self.program.words, *span) if kind is op)
        at = list(found)[-1] if last else next(found)
        bit, _ = op.offset(name)
        self.program.words[at + bit // 64] |= 1 << bit % 64

    def odd_sources(self) -> frozenset[int]:
        """Tensors that are read from odd addresses, in steps that are even.

        Raises LayerError where a layer's reads cannot all be even, wherever its input lies.
        """
        program, size = self.program, isa.word_bytes(isa.Region.WEIGHT, self.config)
        tiles, found = [], set()
        descriptors = [int.from_bytes(raw[: isa.DESCRIPTOR_BYTES], "little") for raw in self.tile_words]
        last_bit = isa.DESCRIPTOR_BYTES * 8 - 1
        assert all(len(raw) == size for raw in self.tile_words)
        for layer in program.layers:
            parities = set()
            for _, op, v in isa.instructions(program.words, layer.first_word, layer.end_word):
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
                error = LayerError("it reads at odd and even addresses, and a compact configuration only at even ones")
                error.operator = layer.operators[0]
                raise error
            if parities == {1}:
                first = next(op for op in self.model.operators if op.index == layer.operators[0])
                found.add(self.root(first.inputs[2 if first.op == "TRANSPOSE_CONV" else 0])[0])
        return frozenset(found)

    def check_fit(self):
        """Raises FitError when the program needs more of a memory than there is."""
        if any(limit.exceeded for limit in self.program.limits()):
            raise FitError(self.program)
