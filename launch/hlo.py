"""What a compiled program's text says of its operations: bytes, collectives, cycles."""

import dataclasses
import operator
import re
from collections.abc import Iterator

INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>.*?) (?P<opcode>[a-z][\w-]*)\((?P<operands>[^)]*)\)(?P<rest>.*)$')
COMPUTATION = re.compile(r'^(?:ENTRY )?%(?P<name>[\w.-]+) \(.*\{$')
SHAPE = re.compile(r'\b([a-z]+\d*)\w*\[([\d,]*)\]')
LAYOUT = re.compile(r'\{[^}]*\}|/\*.*?\*/')
BACKWARD = 'transpose('  # what JAX's paths of names call the backward pass
COLLECTIVE = re.compile(r'(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)(?:-start)?')
READS_A_PART = {'gather', 'dynamic-slice', 'slice'}
ON_CHIP = re.compile(r'\b[a-z]+\d*\[[\d,]*\]\{[^{}]*S\([1-9]\d*\)[^{}]*\}')
MOVES = {'copy-start', 'slice-start'}  # between two memories
FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'call', 'conditional'}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation of a compiled program."""

    opcode: str
    result: str  # its type, without layouts
    bytes: int  # that one call reads and writes: its operands and its result
    op_name: str  # JAX's path of names to it, '' where XLA kept none
    # Those of `bytes` that lie in main memory, not in one on the chip (TPU).
    memory_bytes: int = dataclasses.field(default=0, compare=False)


def shape_bytes(shapes: str) -> int:
    """The bytes of an array type of HLO, such as `bf16[32,40]{1,0}`, or of all arrays of a tuple type."""
    total = 0
    for element, dimensions in SHAPE.findall(shapes):
        bits = 8 if element == 'pred' else int(re.sub(r'\D', '', element) or 0)
        for size in filter(None, dimensions.split(',')):
            bits *= int(size)
        total += -(-bits // 8)
    return total


def share_in_memory(shapes: str) -> float:
    """The share of a type's bytes whose layout does not name another memory than the main one, such as `{0:T(1024)S(1)}`."""
    total = shape_bytes(shapes)
    return shape_bytes(ON_CHIP.sub('', shapes)) / total if total else 0.0


def instructions(text: str) -> dict[str, Instruction]:
    """Every instruction of a compiled program's text (`Compiled.as_text()`), by its name.

    An op_name is the instruction's own, or the last one in a fusion, or one of its operands', for which a backward one goes first.
    """
    found: dict[str, re.Match] = {}
    inside: dict[str, list[re.Match]] = {}
    computation = ''
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            computation = header['name']
        elif match := INSTRUCTION.match(line):
            found[match['name']] = match
            inside.setdefault(computation, []).append(match)

    def body(match: re.Match) -> list[re.Match]:
        called = re.search(r'calls=%([\w.-]+)', match['rest'])
        return inside.get(called[1], []) if called else []

    def own_name(match: re.Match) -> str:
        for each in (match, *reversed(body(match))):
            if name := re.search(r'op_name="([^"]*)"', each['rest']):
                return name[1]
        return ''

    program = {}
    for name, match in found.items():
        operands = [found[operand] for operand in re.findall(r'%([\w.-]+)', match['operands']) if operand in found]
        result, sizes = shape_bytes(match['type']), [shape_bytes(operand['type']) for operand in operands]
        shares = [share_in_memory(operand['type']) for operand in operands]
        opcodes = {each['opcode'] for each in (match, *body(match))}
        if 'dynamic-update-slice' in opcodes:  # in place: what is put in is read and written
            shares = [share for share, size in zip(shares, sizes, strict=True) if size < result]
            sizes = [size for size in sizes if size < result]
            result = sum(sizes)
        elif READS_A_PART & opcodes:
            sizes = [min(size, result) for size in sizes]
        borrowed = sorted((own_name(each) for each in operands if each['opcode'] != 'parameter'), key=lambda name: BACKWARD not in name)
        op_name = next(filter(None, (own_name(match), *borrowed)), '')
        if match['opcode'] in MOVES:  # whose result names its source too, which may be larger
            in_memory = min(shape_bytes(array[0]) for array in list(SHAPE.finditer(match['type']))[:2])
        elif match['opcode'] in FREE or match['opcode'].endswith('-done'):
            in_memory = 0
        else:
            in_memory = result * share_in_memory(match['type']) + sum(map(operator.mul, sizes, shares))
        program[name] = Instruction(match['opcode'], LAYOUT.sub('', match['type']), result + sum(sizes), op_name, round(in_memory))
    return program


@dataclasses.dataclass(frozen=True)
class Collective:
    """One message that devices exchange."""

    kind: str  # all-reduce, all-gather, …
    bytes: int  # of its result on one device
    chips: int  # that take part in one group
    times: int  # in one call of the program


def executed(text: str) -> Iterator[tuple[re.Match, int]]:
    """Each instruction that one call of a program comes to, as INSTRUCTION matches it, and how often; what a fusion holds has no turn.

    A loop's trips are the one whole number that its condition holds, as in `i < 50`; where it holds none or several, it counts once.
    """
    lines: dict[str, list[re.Match]] = {}
    computation = entry = ''
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            computation = header['name']
            entry = computation if line.startswith('ENTRY') else entry
        elif match := INSTRUCTION.match(line):
            lines.setdefault(computation, []).append(match)
    waiting = [(entry, 1)]
    while waiting:
        computation, times = waiting.pop()
        for match in lines.get(computation, ()):
            yield match, times
            called = dict(re.findall(r'(body|condition|to_apply|branch_computations)=\{?%([\w.-]+(?:, %[\w.-]+)*)', match['rest']))
            if match['opcode'] in FREE and called:
                condition = lines.get(called.get('condition', ''), ())
                numbers = [each['operands'] for each in condition if each['opcode'] == 'constant' and each['operands'].isdecimal()]
                trips = int(numbers[0]) if len(numbers) == 1 else 1
                waiting += [(name, times * trips) for names in called.values() for name in names.split(', %')]


def collectives(text: str) -> list[Collective]:
    """Every collective operation that one call of a program's text comes to; an asynchronous one counts where it starts."""
    everyone = int((re.search(r'num_partitions=(\d+)', text) or ['', '1'])[1])
    found = []
    for match, times in executed(text):
        if kind := COLLECTIVE.fullmatch(match['opcode']):
            groups = re.search(r'replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\])', match['rest'])
            chips = everyone if not groups else int(groups[2]) if groups[2] else groups[1].count(',') + 1
            found.append(Collective(kind[1], shape_bytes(match['type']), chips, times))
    return found


def memory_traffic(text: str) -> int:
    """Bytes between the chip and its main memory in one call of a program's text, of arrays without padding."""
    program = instructions(text)
    return sum(program[match['name']].memory_bytes * times for match, times in executed(text))


def estimated_cycles(text: str) -> int:
    """The cycles that XLA for TPU itself expects of the operations of one call, one after the other; copies behind them are free."""
    cycles = ((re.search(r'"estimated_cycles":"(\d+)"', match['rest']), times) for match, times in executed(text))
    return sum(int(found[1]) * times for found, times in cycles if found)
