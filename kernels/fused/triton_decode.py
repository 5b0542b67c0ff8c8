"""The kernel that decodes gallery maps in codes into the fused kernels' layout, in Triton: see `triton_codes`."""

import triton
import triton.language as tl

from ..codes import HALF
from ..preparation import SMALLEST

LARGEST = tl.constexpr(HALF)
LEAST_ROOT = tl.constexpr(SMALLEST)
LEAST_LENGTH = tl.constexpr(1e-12)  # of torch.nn.functional.normalize


@triton.jit
def decode_level(
    stored,  # uint8 [slots of codes, stride]
    halves,  # the same memory as float16
    slots,  # int64 [n]
    cells,  # int32 [rows]: the cell of the grid that each row is of
    whole,  # int16 [WHOLE, 256, channels]
    parts,  # int16 [PARTS, 256, WIDTH]
    mean,  # float32 [channels]
    deviation,  # float32 [channels]
    out,  # float16 [n, rows, columns]
    norms,  # float32 [n, rows]: squared norms; added to if ADD
    stride,  # bytes of a level of an image
    rows,
    columns,
    first_column,  # of the level, where several are joined
    height,
    width,
    grid_height,
    grid_width,
    channels,
    unit,
    length,
    factor,
    KIND: tl.constexpr,  # "values", "scalars" or "rows"
    BITS: tl.constexpr,
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALING: tl.constexpr,
    ADD: tl.constexpr,
    BC: tl.constexpr,
):
    """Decode a level, average it to the grid, scale it, and write it where its columns are: grid (n * rows)."""
    place = tl.program_id(0).to(tl.int64)
    number, row = place // rows, place % rows
    slot = tl.load(slots + number)
    stored += slot * stride
    halves += slot * (stride // 2)
    channel = tl.arange(0, BC)
    some = channel < channels
    lowest = tl.zeros((BC,), tl.float32)
    step = lowest
    if KIND == "scalars":
        lowest = tl.load(halves + channel, mask=some, other=0.0).to(tl.float32)
        highest = tl.load(halves + channels + channel, mask=some, other=0.0).to(tl.float32)
        step = tl.div_rn(highest - lowest, tl.full((BC,), (1 << BITS) - 1, tl.float32))
    cell = tl.load(cells + row)
    y, x = cell // grid_width, cell % grid_width
    top, bottom = y * height // grid_height, ((y + 1) * height + grid_height - 1) // grid_height
    left, right = x * width // grid_width, ((x + 1) * width + grid_width - 1) // grid_width
    value = tl.zeros((BC,), tl.float32)
    for down in range(top, bottom):
        for across in range(left, right):
            pixel = down * width + across
            if KIND == "scalars":
                decoded = _scalars(stored, pixel * channels + channel, channels, some, lowest, step, BITS)
            elif KIND == "rows":
                code = stored + pixel * (WHOLE + PARTS)
                units = _units(code, whole, parts, channel, channels, some, WHOLE, PARTS, WIDTH, BC)
                decoded = tl.minimum(tl.maximum(units.to(tl.float32) * unit, -LARGEST), LARGEST)
            else:
                decoded = tl.load(halves + pixel * channels + channel, mask=some, other=0.0)
            value += tl.where(some, decoded.to(tl.float16).to(tl.float32), 0.0)
    count = ((bottom - top) * (right - left)).to(tl.float32)
    value = tl.div_rn(value, tl.zeros((BC,), tl.float32) + count)
    if SCALING == "channel":
        moved = value - tl.load(mean + channel, mask=some, other=0.0)
        value = tl.div_rn(moved, tl.load(deviation + channel, mask=some, other=1.0))
    if SCALING != "none":
        norm = tl.sqrt_rn(tl.sum(value * value, 0))
        if SCALING == "root":
            divisor = tl.maximum(tl.sqrt_rn(norm * length), LEAST_ROOT)
        else:
            divisor = tl.maximum(norm, LEAST_LENGTH)
        value = tl.div_rn(value, tl.zeros((BC,), tl.float32) + divisor)
    rounded = (value * factor).to(tl.float16)
    tl.store(out + place * columns + first_column + channel, rounded, mask=some)
    squares = rounded.to(tl.float32)
    norm = tl.sum(tl.where(some, squares * squares, 0.0), 0)
    if ADD:
        norm += tl.load(norms + place)
    tl.store(norms + place, norm)


@triton.jit
def _scalars(stored, at, channels, some, lowest, step, BITS: tl.constexpr):
    """Return the values, float32 [BC], of codes of BITS bits at places int [BC], behind the ends of all channels."""
    code = tl.load(stored + 4 * channels + at * BITS // 8, mask=some, other=0).to(tl.int32)
    if BITS == 4:
        code = (code >> (at % 2 * 4)) & 15
    return code.to(tl.float32) * step + lowest


@triton.jit
def _units(
    code,
    whole,
    parts,
    channel,
    channels,
    some,
    WHOLE: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BC: tl.constexpr,
):
    """Return the sums of the rows of tables that a pixel's code names, int32 [BC], in the tables' unit."""
    units = tl.zeros((BC,), tl.int32)
    for table in tl.static_range(WHOLE):
        at = table * 256 + tl.load(code + table).to(tl.int32)
        units += tl.load(whole + at * channels + channel, mask=some, other=0).to(tl.int32)
    if PARTS:
        part = channel // WIDTH
        at = part * 256 + tl.load(code + WHOLE + part, mask=some, other=0).to(tl.int32)
        units += tl.load(parts + at * WIDTH + channel % WIDTH, mask=some, other=0).to(tl.int32)
    return units
