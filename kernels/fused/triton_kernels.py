"""The kernels of a fused search (interface.py) in Triton.

Gallery maps are rows [slots * rows of a map, C]: level 0 as child planes of cells (pyramid.Layout), the others in
raster order. A product's left side is a query's rows, each scaled by a power of two so that float16 holds them; its
`factors` undo that. Kernels compare |g|^2 - 2 q.g, the squared distance less |q|^2, which ranks alike.
"""

import triton
import triton.language as tl


@triton.jit
def coarse_distances(
    query,  # descriptor [B * query_rows, C], blocks [BM, BD]
    factors,  # float32 [B * query_rows]: 2 / scale
    gallery,  # descriptor [slots * rows, C], blocks [BN, BD]
    norms,  # float32 [slots * rows]
    pages,  # int32 [B, K]
    coarser,  # float32 [B, coarser_query_rows, K, coarser_rows]: the next coarser level's sum; anything if not ADD
    over_query,  # int32 [query_rows]: the row of `coarser` that covers each row
    over_gallery,  # int32 [rows]: likewise
    out,  # float32 [B, query_rows, K, rows]
    query_rows,
    rows,
    coarser_query_rows,
    coarser_rows,
    positions,  # K
    weight,
    ADD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    CHUNKS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum the distances of a coarse level and the coarser ones: grid (row blocks, column blocks, B * K)."""
    pair = tl.program_id(2)
    batch, position = pair // positions, pair % positions
    first_row, first_column = tl.program_id(0) * BM, tl.program_id(1) * BN
    first_gallery = tl.load(pages + pair) * rows
    acc = tl.zeros((BM, BN), tl.float32)
    for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
        q = query.load([batch * query_rows + first_row, chunk * BD])
        g = gallery.load([first_gallery + first_column, chunk * BD])
        acc = tl.dot(q, g.T, acc, input_precision=PRECISION)
    row, column = first_row + tl.arange(0, BM), first_column + tl.arange(0, BN)
    some_rows, some_columns = row < query_rows, column < rows
    factor = tl.load(factors + batch * query_rows + row, mask=some_rows, other=0.0)
    norm = tl.load(norms + first_gallery + column, mask=some_columns, other=0.0)
    distances = weight * (norm[None, :] - factor[:, None] * acc)
    some = some_rows[:, None] & some_columns[None, :]
    if ADD:
        over_row = tl.load(over_query + row, mask=some_rows, other=0)
        over_column = tl.load(over_gallery + column, mask=some_columns, other=0)
        above = coarser + batch.to(tl.int64) * coarser_query_rows * positions * coarser_rows
        at = over_row[:, None].to(tl.int64) * (positions * coarser_rows)
        at += (position * coarser_rows + over_column)[None, :]
        distances += tl.load(above + at, mask=some, other=0.0)
    out += batch.to(tl.int64) * query_rows * positions * rows
    at = row[:, None].to(tl.int64) * (positions * rows) + (position * rows + column)[None, :]
    tl.store(out + at, distances, mask=some)


@triton.jit
def block_minima(
    query,  # descriptor [B * query_rows, C], blocks [BM, BD]
    factors,  # float32 [B * query_rows]
    row_cells,  # int32 [query_rows]: the cell that a row's pixel lies in
    gallery,  # descriptor [slots * PLANES * cells, C], blocks [BN, BD]
    norms,  # float32 [slots * PLANES * cells]
    pages,  # int32 [B, K]
    coarse,  # float32 [B, cells, K, cells]; anything if not COARSE
    minima,  # float32 [B, query_rows, K * blocks]
    query_rows,  # a multiple of BM
    cells,
    positions,  # K
    blocks,  # of BN cells, in a map
    weight,
    PLANES: tl.constexpr,
    COARSE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    CHUNKS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Find the least distance of each query pixel in each block of cells of each map: grid (row blocks, K, B).

    The children of a cell are in planes, so their minimum is an element-wise minimum of products, to which the coarse
    levels' distance is added once.
    """
    position, batch = tl.program_id(1), tl.program_id(2)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    first_row = batch * query_rows + tl.program_id(0) * BM
    first_gallery = tl.load(pages + batch * positions + position) * (PLANES * cells)
    factor = tl.load(factors + batch * query_rows + row)
    if CHUNKS == 1:
        q = query.load([first_row, 0])
    if COARSE:
        row_cell = tl.load(row_cells + row)
        coarse += batch.to(tl.int64) * cells * positions * cells
        coarse_row = coarse + row_cell[:, None].to(tl.int64) * (positions * cells) + position * cells
    minima += batch.to(tl.int64) * query_rows * positions * blocks + position * blocks
    best = tl.full((BM, BN), float("inf"), tl.float32)
    for step in tl.range(0, blocks * PLANES, num_stages=STAGES):
        block, plane = step // PLANES, step % PLANES
        cell = block * BN + tl.arange(0, BN)
        child = first_gallery + plane * cells + block * BN
        if CHUNKS == 1:
            acc = tl.dot(q, gallery.load([child, 0]).T, input_precision=PRECISION)
        else:
            acc = tl.zeros((BM, BN), tl.float32)
            for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
                q = query.load([first_row, chunk * BD])
                acc = tl.dot(q, gallery.load([child, chunk * BD]).T, acc, input_precision=PRECISION)
        norm = tl.load(norms + child + tl.arange(0, BN), mask=cell < cells, other=float("inf"))
        best = tl.minimum(best, norm[None, :] - factor[:, None] * acc)
        if plane == PLANES - 1:
            distances = tl.where((cell < cells)[None, :], weight * best, float("inf"))
            if COARSE:
                distances += tl.load(coarse_row + cell[None, :], mask=(cell < cells)[None, :], other=0.0)
            tl.store(minima + row * (positions * blocks) + block, tl.min(distances, 1))
            best = tl.full((BM, BN), float("inf"), tl.float32)


@triton.jit
def rescan(
    minima,  # float32 [B, query_rows, K * blocks]
    query,  # [B, pixels, C], the features as they came
    query_row,  # int32 [pixels]: the row of `minima` of a pixel
    pixel_cells,  # int32 [pixels]: the cell that a pixel lies in
    gallery,  # [slots, PLANES * cells, gallery_columns]
    cell_pixels,  # int32 [PLANES * cells]: a cell's pixels, -1 where one repeats
    pages,  # int32 [B, K]
    coarse,  # float32 [B, cells, K, cells]; anything if not COARSE
    out,  # int64 [B, pixels, COUNT * PLANES * BN]: keys of distance and match
    query_rows,
    pixels,
    cells,
    positions,  # K
    first_position,  # of these in the whole page
    blocks,  # of BN cells, in a map
    channels,
    gallery_columns,
    weight,
    COUNT: tl.constexpr,  # blocks to rescan
    MINIMA: tl.constexpr,  # K * blocks, rounded up to a power of two
    PLANES: tl.constexpr,
    TOGETHER: tl.constexpr,  # planes at a time: a power of two
    COARSE: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Compare each query pixel with all pixels of the blocks with the lowest minima: grid (pixels, B)."""
    pixel, batch = tl.program_id(0), tl.program_id(1)
    number, child = tl.arange(0, MINIMA), tl.arange(0, TOGETHER * BN)
    minima += (batch.to(tl.int64) * query_rows + tl.load(query_row + pixel)) * (positions * blocks)
    least = tl.load(minima + number, mask=number < positions * blocks, other=float("inf"))
    query += (batch.to(tl.int64) * pixels + pixel) * channels
    out += (batch.to(tl.int64) * pixels + pixel) * (COUNT * PLANES * BN)
    coarse += (batch.to(tl.int64) * cells + tl.load(pixel_cells + pixel)) * (positions * cells)
    for place in range(COUNT):
        block = tl.argmin(least, 0)  # the lowest of equal ones
        least = tl.where(number == block, float("inf"), least)
        position = block // blocks
        cell = block % blocks * BN + child % BN
        slot = tl.load(pages + batch * positions + position)
        for first_plane in range(0, PLANES, TOGETHER):
            plane = first_plane + child // BN
            some = (plane < PLANES) & (cell < cells)
            row = plane * cells + cell
            rows = gallery + (slot.to(tl.int64) * PLANES * cells + row)[:, None] * gallery_columns
            total = tl.zeros((TOGETHER * BN,), tl.float32)
            for first in range(0, channels, BD):
                channel = first + tl.arange(0, BD)
                q = tl.load(query + channel, mask=channel < channels, other=0.0).to(tl.float32)
                g = tl.load(rows + channel[None, :], mask=some[:, None] & (channel < channels)[None, :], other=0.0)
                difference = g.to(tl.float32) - q[None, :]
                total += tl.sum(difference * difference, 1)
            distance = weight * total
            if COARSE:
                distance += tl.load(coarse + position * cells + cell, mask=some, other=0.0)
            there = tl.load(cell_pixels + row, mask=some, other=-1)
            distance = tl.where(there >= 0, distance, float("inf"))
            match = (first_position + position) * pixels + tl.maximum(there, 0)
            tl.store(out + (place * PLANES + first_plane) * BN + child, _key(distance, match), mask=plane < PLANES)


@triton.jit
def _key(distance, match):
    """Return an int64 that orders by distance, and equal distances by match."""
    bits = distance.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # floats order as signed integers, except for negative ones
    return (bits.to(tl.int64) << 32) | match.to(tl.int64)


@triton.jit
def differences(
    query,  # [B, query_rows, C], the features of one level as they came
    query_under,  # int32 [pixels]: the level's row under a pixel
    gallery,  # [slots, rows, gallery_columns]
    gallery_under,  # int32 [pixels]
    pages,  # int32 [B, K]
    matches,  # int64 [B, pixels, COUNT], position * pixels + pixel
    distances,  # float32 [B, pixels, COUNT], added to
    query_rows,
    rows,
    pixels,
    positions,  # K
    channels,
    gallery_columns,
    weight,
    COUNT: tl.constexpr,
    SLOTS: tl.constexpr,  # COUNT, rounded up to a power of two
    BD: tl.constexpr,
):
    """Add a level's squared distances to matches, as float32 differences, which do not cancel: grid (pixels, B)."""
    pixel, batch = tl.program_id(0), tl.program_id(1)
    number = tl.arange(0, SLOTS)
    at = (batch.to(tl.int64) * pixels + pixel) * COUNT + number
    match = tl.load(matches + at, mask=number < COUNT, other=0)
    slot = tl.load(pages + batch * positions + (match // pixels).to(tl.int32))
    under = tl.load(gallery_under + (match % pixels).to(tl.int32))
    query += (batch.to(tl.int64) * query_rows + tl.load(query_under + pixel)) * channels
    there = gallery + ((slot.to(tl.int64) * rows + under) * gallery_columns)[:, None]
    total = tl.zeros((SLOTS,), tl.float32)
    for first in range(0, channels, BD):
        channel = first + tl.arange(0, BD)
        q = tl.load(query + channel, mask=channel < channels, other=0.0).to(tl.float32)
        g = tl.load(there + channel[None, :], mask=(channel < channels)[None, :], other=0.0)
        difference = g.to(tl.float32) - q[None, :]
        total += tl.sum(difference * difference, 1)
    before = tl.load(distances + at, mask=number < COUNT, other=0.0)
    tl.store(distances + at, before + weight * total, mask=number < COUNT)


@triton.jit(do_not_specialize=["shift"])
def window_distances(
    query,  # [B, pixels, C], the features of one level as they came
    gallery,  # [slots, rows, gallery_columns]
    gallery_row,  # int32 [pixels]: the gallery row of a pixel; anything if not REORDERED
    pages,  # int32 [B, K]
    out,  # float32 [B, K, 2 * reach + 1, pixels]
    pixels,
    width,
    rows,
    positions,  # K
    channels,
    gallery_columns,
    shift,  # rows
    reach,  # columns to both sides
    REORDERED: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
):
    """Compare each pixel with those `shift` rows below and up to `reach` columns beside it: grid (pixel blocks, B * K).

    As float32 differences; infinity where that is outside the grid.
    """
    pixel, pair = tl.program_id(0) * BP + tl.arange(0, BP), tl.program_id(1).to(tl.int64)
    query += ((pair // positions * pixels + pixel) * channels)[:, None]
    gallery += tl.load(pages + pair).to(tl.int64) * rows * gallery_columns
    out += pair * (2 * reach + 1) * pixels + pixel
    below = pixel + shift * width
    for number in range(0, 2 * reach + 1):
        column = pixel % width + number - reach
        inside = (pixel < pixels) & (below >= 0) & (below < pixels) & (column >= 0) & (column < width)
        row = below + number - reach
        if REORDERED:
            row = tl.load(gallery_row + row, mask=inside, other=0)
        there = gallery + (row * gallery_columns)[:, None]
        total = tl.zeros((BP,), tl.float32)
        for first in range(0, channels, BD):
            channel = first + tl.arange(0, BD)
            some = inside[:, None] & (channel < channels)[None, :]
            q = tl.load(query + channel[None, :], mask=some, other=0.0).to(tl.float32)
            difference = tl.load(there + channel[None, :], mask=some, other=0.0).to(tl.float32) - q
            total += tl.sum(difference * difference, 1)
        tl.store(out + number * pixels, tl.where(inside, total, float("inf")), mask=pixel < pixels)
