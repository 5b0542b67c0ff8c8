// The kernels of a fused search (interface.py) in CUDA C++, for compute capability 8.0 and later; without headers.
//
// Gallery maps are rows [slots, rows of a map, columns], columns a multiple of 8 that ends in zeros: level 0 as child
// planes of cells, the others in raster order. A product's left side is a query's rows, each scaled by a power of two;
// its `factors` undo that. Kernels compare |g|^2 - 2 q.g, the squared distance less |q|^2, which ranks alike.
//
// A product's tile is 32 query rows for each warp, by 64 gallery rows. Its channels come in chunks of DEPTH, and STAGES
// chunks are under way at a time. Grids have one dimension, whose limit is 2^31 blocks.

using Bits = unsigned short;  // the bits of a float16 or a bfloat16

constexpr int LANES = 32;
constexpr int WARP_ROWS = 32;  // query rows of a warp: two fragments
constexpr int COLUMNS = 64;  // gallery rows of a tile; of `block_minima`, the cells of a block
constexpr int PAD = 8;  // elements after a row in shared memory, so that eight rows are in different banks
constexpr int FRAGMENT = 16;  // rows of a left side, and channels, that one instruction multiplies
constexpr int PIECE = 8;  // elements of 16 bytes
constexpr unsigned WARP = 0xffffffffu;

// Instructions

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Begins a copy of 16 bytes to shared memory: zeros if not `there`.
__device__ __forceinline__ void copy_16(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_4(void* to, const void* from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(there ? 4 : 0)
                 : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies, except those of the latest GROUPS groups.
template <int GROUPS>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const Bits* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}

__device__ __forceinline__ void prefetch(const float* at) { asm volatile("prefetch.global.L1 [%0];" ::"l"(at)); }

struct Float16 {
    using Stored = Bits;

    static __device__ __forceinline__ float value(Bits bits) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }

    // c += a b, a 16 x 16 and b 16 x 8.
    static __device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct Bfloat16 {
    using Stored = Bits;

    static __device__ __forceinline__ float value(Bits bits) { return __uint_as_float(unsigned(bits) << 16); }

    static __device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct Float32 {  // of queries only
    using Stored = float;

    static __device__ __forceinline__ float value(float value) { return value; }
};

// Parts

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// Begins to copy ROWS rows of DEPTH channels, from `channel` on, to rows of STRIDE elements. From row `some` on, and
// beyond `columns` channels, they are zeros.
template <int ROWS, int DEPTH, int STRIDE, int THREADS>
__device__ __forceinline__ void copy_rows(Bits* to, const Bits* from, int columns, int channel, int some) {
    constexpr int ACROSS = DEPTH / PIECE, PIECES = ROWS * ACROSS;
#pragma unroll
    for (int first = 0; first < PIECES; first += THREADS) {
        const int i = first + threadIdx.x, row = i / ACROSS, piece = i % ACROSS * PIECE;
        if (first + THREADS <= PIECES || i < PIECES)
            copy_16(to + row * STRIDE + piece, from + (long long)row * columns + channel + piece,
                    row < some && channel + piece < columns);
    }
}

// The products of a warp's 32 query rows by 64 gallery rows, in the tensor cores' register layout.
struct Products {
    float at[WARP_ROWS / FRAGMENT][COLUMNS / 8][4];

    __device__ __forceinline__ void fill(float value) {
#pragma unroll
        for (int m = 0; m < WARP_ROWS / FRAGMENT; m++)
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) at[m][n][i] = value;
    }

    // Adds the products over DEPTH channels of rows in shared memory.
    template <class T, int DEPTH, int QUERY_STRIDE, int STRIDE>
    __device__ __forceinline__ void add(const Bits* query, const Bits* gallery) {
        const int lane = threadIdx.x % LANES;
        query += lane % FRAGMENT * QUERY_STRIDE + lane / FRAGMENT * 8;
        gallery += (lane % 8 + lane / FRAGMENT * 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
        for (int k = 0; k < DEPTH; k += FRAGMENT) {
            unsigned a[WARP_ROWS / FRAGMENT][4];
#pragma unroll
            for (int m = 0; m < WARP_ROWS / FRAGMENT; m++) load_matrices(a[m], query + m * FRAGMENT * QUERY_STRIDE + k);
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n += 2) {
                unsigned b[4];
                load_matrices(b, gallery + n * 8 * STRIDE + k);
#pragma unroll
                for (int m = 0; m < WARP_ROWS / FRAGMENT; m++) {
                    T::multiply(at[m][n], a[m], b[0], b[1]);
                    T::multiply(at[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
};

// The place of this thread's values in a warp's products: value i of fragment (m, n) belongs to row `row_of(m, i)` and
// column `column_of(n, i)`.
__device__ __forceinline__ int row_of(int m, int i) { return m * FRAGMENT + i / 2 * 8 + threadIdx.x % LANES / 4; }

__device__ __forceinline__ int column_of(int n, int i) { return n * 8 + threadIdx.x % 4 * 2 + i % 2; }

// Elements `at` and at + 1 of `size`, or anything beyond it; in one access if PAIRED, when both numbers are even.
template <bool PAIRED>
__device__ __forceinline__ float2 load_pair(const float* from, int at, int size) {
    if (PAIRED) return *reinterpret_cast<const float2*>(from + min(at, size - 2));
    return make_float2(from[min(at, size - 1)], from[min(at + 1, size - 1)]);
}

template <bool PAIRED>
__device__ __forceinline__ void store_pair(float* to, int at, int size, float2 values) {
    if (PAIRED) {
        if (at < size) *reinterpret_cast<float2*>(to + at) = values;
    } else {
        if (at < size) to[at] = values.x;
        if (at + 1 < size) to[at + 1] = values.y;
    }
}

// The place of a channel in a query's features in shared memory: the first four of a piece in the first half, so that
// neighbouring lanes read 16 bytes side by side.
__device__ __forceinline__ int place_of(int channel, int columns) {
    return channel / PIECE * 4 + channel % 4 + channel % PIECE / 4 * (columns / 2);
}

// A query's features as float32, with zeros up to `columns`.
template <class Q>
__device__ __forceinline__ void load_features(float* to, const typename Q::Stored* from, int channels, int columns) {
    for (int channel = threadIdx.x; channel < columns; channel += blockDim.x)
        to[place_of(channel, columns)] = channel < channels ? Q::value(from[channel]) : 0.0f;
}

// The squared difference of 8 channels.
template <class T>
__device__ __forceinline__ float difference(uint4 values, float4 low, float4 high) {
    const unsigned words[4] = {values.x, values.y, values.z, values.w};
    const float query[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float even = T::value(Bits(words[i] & 0xffffu)) - query[2 * i];
        const float odd = T::value(Bits(words[i] >> 16)) - query[2 * i + 1];
        total += even * even + odd * odd;
    }
    return total;
}

// Squared differences of the features in shared memory to ROWS gallery rows, by 8 lanes, which all get the results.
template <class T, int ROWS>
__device__ __forceinline__ void differences_to(
    float (&total)[ROWS], const float* features, const Bits* const (&rows)[ROWS], int columns) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) total[r] = 0.0f;
    for (int piece = threadIdx.x % 8; piece < columns / PIECE; piece += 8) {
        const float4 low = *reinterpret_cast<const float4*>(features + 4 * piece);
        const float4 high = *reinterpret_cast<const float4*>(features + columns / 2 + 4 * piece);
        uint4 values[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) values[r] = *reinterpret_cast<const uint4*>(rows[r] + piece * PIECE);
#pragma unroll
        for (int r = 0; r < ROWS; r++) total[r] += difference<T>(values[r], low, high);
    }
#pragma unroll
    for (int offset = 1; offset < 8; offset *= 2)
#pragma unroll
        for (int r = 0; r < ROWS; r++) total[r] += __shfl_xor_sync(WARP, total[r], offset);
}

// An integer that orders by distance, and equal distances by number.
__device__ __forceinline__ long long key(float distance, int number) {
    int bits = __float_as_int(distance);
    bits ^= bits >> 31 & 0x7fffffff;  // floats order as signed integers, except for negative ones
    return (long long)((unsigned long long)(unsigned)bits << 32 | (unsigned)number);
}

// Kernels

// The sum of the distances of a coarse level and the coarser ones: blocks [B * K, row tiles, column tiles].
template <class T, int WARPS, int DEPTH, int STAGES, bool ADD, bool PAIRED>
__global__ void __launch_bounds__(WARPS * LANES) coarse_distances(
    const Bits* __restrict__ query,  // [B, query_rows, columns]
    const float* __restrict__ factors,  // [B, query_rows]: 2 / scale
    const Bits* __restrict__ gallery,  // [slots, rows, columns]
    const float* __restrict__ norms,  // [slots, rows]
    const int* __restrict__ pages,  // [B, K]
    const float* __restrict__ coarser,  // [B, coarser_rows, K, coarser_rows]: the next coarser level's sum, if ADD
    const int* __restrict__ over,  // [rows]: the row of `coarser` that covers each, if ADD
    float* __restrict__ out,  // [B, query_rows, K, rows]
    int query_rows, int rows, int coarser_rows, int positions, int columns, float weight) {
    constexpr int ROWS = WARPS * WARP_ROWS, THREADS = WARPS * LANES, STRIDE = DEPTH + PAD;
    extern __shared__ uint4 shared[];
    Bits* const query_tiles = reinterpret_cast<Bits*>(shared);  // [STAGES, ROWS, STRIDE]
    Bits* const gallery_tiles = query_tiles + STAGES * ROWS * STRIDE;  // [STAGES, COLUMNS, STRIDE]
    const int row_tiles = (query_rows + ROWS - 1) / ROWS, column_tiles = (rows + COLUMNS - 1) / COLUMNS;
    const int first_column = blockIdx.x % column_tiles * COLUMNS;
    const int first_row = blockIdx.x / column_tiles % row_tiles * ROWS;
    const int pair = blockIdx.x / column_tiles / row_tiles, batch = pair / positions, position = pair % positions;
    query += ((long long)batch * query_rows + first_row) * columns;
    gallery += ((long long)pages[pair] * rows + first_column) * columns;
    norms += (long long)pages[pair] * rows;
    factors += (long long)batch * query_rows;
    const int chunks = (columns + DEPTH - 1) / DEPTH;
    auto load = [&](int chunk) {
        if (chunk < chunks) {
            const int stage = chunk % STAGES, channel = chunk * DEPTH;
            copy_rows<ROWS, DEPTH, STRIDE, THREADS>(
                query_tiles + stage * ROWS * STRIDE, query, columns, channel, query_rows - first_row);
            copy_rows<COLUMNS, DEPTH, STRIDE, THREADS>(
                gallery_tiles + stage * COLUMNS * STRIDE, gallery, columns, channel, rows - first_column);
        }
        commit_copies();
    };
    const int warp = threadIdx.x / LANES;
    Products products;
    products.fill(0.0f);
    for (int chunk = 0; chunk < STAGES - 1; chunk++) load(chunk);
    for (int chunk = 0; chunk < chunks; chunk++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        load(chunk + STAGES - 1);  // over the stage that every warp has left
        const int stage = chunk % STAGES;
        products.add<T, DEPTH, STRIDE, STRIDE>(
            query_tiles + (stage * ROWS + warp * WARP_ROWS) * STRIDE, gallery_tiles + stage * COLUMNS * STRIDE);
    }
    constexpr int HALVES = WARP_ROWS / 8;
    float factor[HALVES];
    const float* above[HALVES];
    float* line[HALVES];
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
        const int row = min(first_row + warp * WARP_ROWS + row_of(h / 2, h % 2 * 2), query_rows - 1);
        factor[h] = factors[row];
        above[h] = coarser;
        if (ADD) above[h] += (((long long)batch * coarser_rows + over[row]) * positions + position) * coarser_rows;
        line[h] = out + (((long long)batch * query_rows + row) * positions + position) * rows;
    }
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
        const int column = first_column + column_of(n, 0);
        const float2 norm = make_float2(norms[min(column, rows - 1)], norms[min(column + 1, rows - 1)]);
        const int2 over_column = ADD ? make_int2(over[min(column, rows - 1)], over[min(column + 1, rows - 1)]) : int2();
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            const float* const product = products.at[h / 2][n] + h % 2 * 2;
            float2 distance = make_float2(
                weight * (norm.x - factor[h] * product[0]), weight * (norm.y - factor[h] * product[1]));
            if (ADD) {
                distance.x += above[h][over_column.x];
                distance.y += above[h][over_column.y];
            }
            if (first_row + warp * WARP_ROWS + row_of(h / 2, h % 2 * 2) < query_rows)
                store_pair<PAIRED>(line[h], column, rows, distance);
        }
    }
}

// The least distance of each query pixel in each block of cells of each map: blocks [B, K, row tiles].
//
// The children of a cell are in planes, so their minimum is an element-wise minimum of products, to which the coarse
// levels' distance is added once. RESIDENT query rows stay in shared memory with all their channels.
template <class T, int WARPS, int DEPTH, int CHUNKS, int STAGES, bool RESIDENT, int PLANES, bool COARSE, bool PAIRED>
__global__ void __launch_bounds__(WARPS * LANES) block_minima(
    const Bits* __restrict__ query,  // [B, query_rows, columns]
    const float* __restrict__ factors,  // [B, query_rows]
    const int* __restrict__ row_cells,  // [query_rows]: the cell that a row's pixel lies in
    const Bits* __restrict__ gallery,  // [slots, PLANES * cells, columns]
    const float* __restrict__ norms,  // [slots, PLANES * cells]
    const int* __restrict__ pages,  // [B, K]
    const float* __restrict__ coarse,  // [B, cells, K, cells], if COARSE
    float* __restrict__ minima,  // [B, query_rows, K * blocks]
    int query_rows,  // a multiple of a tile's
    int cells, int positions, int columns, float weight) {
    constexpr int ROWS = WARPS * WARP_ROWS, THREADS = WARPS * LANES, STRIDE = DEPTH + PAD;
    constexpr int QUERY_DEPTH = RESIDENT ? CHUNKS * DEPTH : DEPTH, QUERY_STRIDE = QUERY_DEPTH + PAD;
    constexpr int QUERY_STAGES = RESIDENT ? 1 : STAGES;
    extern __shared__ uint4 shared[];
    Bits* const query_tiles = reinterpret_cast<Bits*>(shared);  // [QUERY_STAGES, ROWS, ..]
    Bits* const gallery_tiles = query_tiles + QUERY_STAGES * ROWS * QUERY_STRIDE;  // [STAGES, COLUMNS, STRIDE]
    float* const norm_tiles = reinterpret_cast<float*>(gallery_tiles + STAGES * COLUMNS * STRIDE);  // [STAGES, COLUMNS]
    const int tiles = query_rows / ROWS, blocks = (cells + COLUMNS - 1) / COLUMNS;
    const int first_row = blockIdx.x % tiles * ROWS, pair = blockIdx.x / tiles;
    const int batch = pair / positions, position = pair % positions;
    query += ((long long)batch * query_rows + first_row) * columns;
    gallery += (long long)pages[pair] * (PLANES * cells) * columns;
    norms += (long long)pages[pair] * (PLANES * cells);
    coarse += ((long long)batch * cells * positions + position) * cells;  // of cell 0 of the query
    const int steps = blocks * PLANES * CHUNKS;
    auto load = [&](int step) {
        if (step < steps) {
            const int stage = step % STAGES, channel = step % CHUNKS * DEPTH;
            const int plane = step / CHUNKS % PLANES, first_cell = step / (CHUNKS * PLANES) * COLUMNS;
            const int child = plane * cells + first_cell;
            copy_rows<COLUMNS, DEPTH, STRIDE, THREADS>(
                gallery_tiles + stage * COLUMNS * STRIDE, gallery + (long long)child * columns, columns, channel,
                cells - first_cell);
            if (!RESIDENT)
                copy_rows<ROWS, DEPTH, STRIDE, THREADS>(
                    query_tiles + stage * ROWS * STRIDE, query, columns, channel, ROWS);
            if (step % CHUNKS == CHUNKS - 1)
                for (int i = threadIdx.x; i < COLUMNS; i += THREADS)
                    copy_4(norm_tiles + stage * COLUMNS + i, norms + child + i, first_cell + i < cells);
        }
        commit_copies();
    };
    if (RESIDENT) copy_rows<ROWS, QUERY_DEPTH, QUERY_STRIDE, THREADS>(query_tiles, query, columns, 0, ROWS);
    for (int step = 0; step < STAGES - 1; step++) load(step);

    const int warp_row = threadIdx.x / LANES * WARP_ROWS, lane = threadIdx.x % LANES;
    const long long coarse_stride = (long long)positions * cells;
    const float* const lane_coarse = coarse + (COARSE ? row_cells[first_row + warp_row + lane] * coarse_stride : 0);
    constexpr int HALVES = WARP_ROWS / 8;
    float factor[HALVES];
#pragma unroll
    for (int h = 0; h < HALVES; h++)
        factor[h] = factors[(long long)batch * query_rows + first_row + warp_row + row_of(h / 2, h % 2 * 2)];
    Products products, best;
    products.fill(0.0f);
    best.fill(infinity());
    for (int step = 0; step < steps; step++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1);  // over the stage that every warp has left
        const int stage = step % STAGES, chunk = step % CHUNKS, plane = step / CHUNKS % PLANES;
        const int block = step / (CHUNKS * PLANES), first_cell = block * COLUMNS;
        if (COARSE && plane == PLANES - 1 && chunk == 0) {  // loads what is added after this plane
#pragma unroll
            for (int cell = 0; cell < COLUMNS; cell += LANES) prefetch(lane_coarse + min(first_cell + cell, cells - 1));
        }
        const int query_at = RESIDENT ? warp_row * QUERY_STRIDE + chunk * DEPTH : (stage * ROWS + warp_row) * STRIDE;
        products.add<T, DEPTH, QUERY_STRIDE, STRIDE>(query_tiles + query_at, gallery_tiles + stage * COLUMNS * STRIDE);
        if (chunk < CHUNKS - 1) continue;

#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const float2 norm = *reinterpret_cast<const float2*>(norm_tiles + stage * COLUMNS + column_of(n, 0));
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                const float* const product = products.at[h / 2][n] + h % 2 * 2;
                float* const nearest = best.at[h / 2][n] + h % 2 * 2;
                nearest[0] = fminf(nearest[0], norm.x - factor[h] * product[0]);
                nearest[1] = fminf(nearest[1], norm.y - factor[h] * product[1]);
            }
        }
        products.fill(0.0f);
        if (plane < PLANES - 1) continue;

#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            const int row = first_row + warp_row + row_of(h / 2, h % 2 * 2);
            const float* const line = coarse + (COARSE ? row_cells[row] * coarse_stride : 0);
            float least = infinity();
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++) {
                const int cell = first_cell + column_of(n, 0);
                const float* const nearest = best.at[h / 2][n] + h % 2 * 2;
                float2 above = make_float2(0.0f, 0.0f);
                if (COARSE) above = load_pair<PAIRED>(line, cell, cells);
                if (cell < cells) least = fminf(least, weight * nearest[0] + above.x);
                if (cell + 1 < cells) least = fminf(least, weight * nearest[1] + above.y);
            }
            least = fminf(least, __shfl_xor_sync(WARP, least, 1));
            least = fminf(least, __shfl_xor_sync(WARP, least, 2));
            if (lane % 4 == 0)
                minima[(((long long)batch * query_rows + row) * positions + position) * blocks + block] = least;
        }
        best.fill(infinity());
    }
}

// Compares each query pixel with all pixels of the blocks with the lowest minima: blocks [B, pixels].
template <class Q, class T, int WARPS, int PLANES, bool COARSE>
__global__ void __launch_bounds__(WARPS * LANES) rescan(
    const float* __restrict__ minima,  // [B, query_rows, K * blocks]
    const typename Q::Stored* __restrict__ query,  // [B, pixels, channels], the features as they came
    const int* __restrict__ query_row,  // [pixels]: the row of `minima` of a pixel
    const int* __restrict__ pixel_cells,  // [pixels]: the cell that a pixel lies in
    const Bits* __restrict__ gallery,  // [slots, PLANES * cells, columns]
    const int* __restrict__ cell_pixels,  // [PLANES * cells]: a cell's pixels, -1 where one repeats
    const int* __restrict__ pages,  // [B, K]
    const float* __restrict__ coarse,  // [B, cells, K, cells], if COARSE
    long long* __restrict__ out,  // [B, pixels, count * PLANES * COLUMNS]: keys of distance and match
    int query_rows, int pixels, int cells, int positions,
    int first_position,  // of these in the whole page
    int channels, int columns,
    int count,  // blocks to rescan, at most K * blocks
    float weight) {
    constexpr int TOGETHER = 4;  // rows of 8 lanes at a time
    constexpr int UNIT = TOGETHER * LANES / 8;  // cells of one plane that a warp compares at a time
    extern __shared__ uint4 shared[];
    float* const features = reinterpret_cast<float*>(shared);  // [columns]
    __shared__ long long lowest[2][WARPS];
    const int pixel = blockIdx.x % pixels, batch = blockIdx.x / pixels;
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int blocks = (cells + COLUMNS - 1) / COLUMNS, numbers = positions * blocks;
    minima += ((long long)batch * query_rows + query_row[pixel]) * numbers;
    coarse += ((long long)batch * cells + (COARSE ? pixel_cells[pixel] : 0)) * positions * cells;
    pages += (long long)batch * positions;
    out += ((long long)batch * pixels + pixel) * count * (PLANES * COLUMNS);
    load_features<Q>(features, query + ((long long)batch * pixels + pixel) * channels, channels, columns);
    long long last = 0;
    for (int place = 0; place < count; place++) {
        long long least = 0x7fffffffffffffffLL;  // the next of the minima, of equal ones the lowest block
        for (int number = threadIdx.x; number < numbers; number += WARPS * LANES) {
            const long long candidate = key(minima[number], number);
            if ((place == 0 || candidate > last) && candidate < least) least = candidate;
        }
        for (int offset = 1; offset < LANES; offset *= 2) {
            const long long other = __shfl_xor_sync(WARP, least, offset);
            least = other < least ? other : least;
        }
        if (lane == 0) lowest[place % 2][warp] = least;
        __syncthreads();  // also for the features
        for (int w = 0; w < WARPS; w++) least = lowest[place % 2][w] < least ? lowest[place % 2][w] : least;
        last = least;

        const int number = int(least & 0x7fffffff), position = number / blocks, block = number % blocks;
        const Bits* const map = gallery + (long long)pages[position] * (PLANES * cells) * columns;
        for (int unit = warp; unit < PLANES * (COLUMNS / UNIT); unit += WARPS) {
            const int plane = unit / (COLUMNS / UNIT), first = unit % (COLUMNS / UNIT) * UNIT;
            const Bits* rows[TOGETHER];
#pragma unroll
            for (int r = 0; r < TOGETHER; r++) {
                const int cell = min(block * COLUMNS + first + r * (LANES / 8) + lane / 8, cells - 1);
                rows[r] = map + (long long)(plane * cells + cell) * columns;
            }
            float total[TOGETHER];
            differences_to<T, TOGETHER>(total, features, rows, columns);
            float distance = total[0];
#pragma unroll
            for (int r = 1; r < TOGETHER; r++)
                if (lane % 8 == r) distance = total[r];
            if (lane % 8 < TOGETHER) {
                const int child = first + lane % 8 * (LANES / 8) + lane / 8, cell = block * COLUMNS + child;
                const int there = cell < cells ? cell_pixels[plane * cells + cell] : -1;
                distance *= weight;
                if (COARSE && there >= 0) distance += coarse[(long long)position * cells + cell];
                out[((long long)place * PLANES + plane) * COLUMNS + child] =
                    key(there < 0 ? infinity() : distance, (first_position + position) * pixels + max(there, 0));
            }
        }
    }
}

// Adds a level's squared distances to matches, as float32 differences, which do not cancel: blocks [B, pixels].
template <class Q, class T, int WARPS>
__global__ void __launch_bounds__(WARPS * LANES) differences(
    const typename Q::Stored* __restrict__ query,  // [B, query_rows, channels], of one level as they came
    const int* __restrict__ query_under,  // [pixels]: the level's row under a pixel
    const Bits* __restrict__ gallery,  // [slots, rows, columns]
    const int* __restrict__ gallery_under,  // [pixels]
    const int* __restrict__ pages,  // [B, K]
    const long long* __restrict__ matches,  // [B, pixels, count], position * pixels + pixel
    float* __restrict__ distances,  // [B, pixels, count], added to
    int query_rows, int rows, int pixels, int positions, int channels, int columns, int count, float weight) {
    constexpr int TOGETHER = WARPS * LANES / 8;  // matches
    extern __shared__ uint4 shared[];
    float* const features = reinterpret_cast<float*>(shared);  // [columns]
    const int pixel = blockIdx.x % pixels, batch = blockIdx.x / pixels;
    const long long row = (long long)batch * query_rows + query_under[pixel];
    load_features<Q>(features, query + row * channels, channels, columns);
    __syncthreads();
    matches += (long long)blockIdx.x * count;
    distances += (long long)blockIdx.x * count;
    for (int first = 0; first < count; first += TOGETHER) {  // all lanes of a warp go on, as they add up together
        const int number = first + threadIdx.x / 8;
        const int match = int(matches[min(number, count - 1)]);
        const int slot = pages[(long long)batch * positions + match / pixels];
        const Bits* const there[1] = {gallery + ((long long)slot * rows + gallery_under[match % pixels]) * columns};
        float total[1];
        differences_to<T, 1>(total, features, there, columns);
        if (threadIdx.x % 8 == 0 && number < count) distances[number] += weight * total[0];
    }
}

// Compares each pixel with those `shift` rows below it and up to `reach` columns beside it, as float32 differences:
// blocks [B, pixels]. Infinity where that is outside the grid.
template <class Q, class T, int WARPS, int REORDERED>
__global__ void __launch_bounds__(WARPS * LANES) window_distances(
    const typename Q::Stored* __restrict__ query,  // [B, pixels, channels], of one level as they came
    const Bits* __restrict__ gallery,  // [slots, rows, columns]
    const int* __restrict__ gallery_row,  // [pixels]: the gallery row of a pixel; anything if not REORDERED
    const int* __restrict__ pages,  // [B, K]
    float* __restrict__ out,  // [B, K, 2 * reach + 1, pixels]
    int pixels, int width, int rows, int positions, int channels, int columns, int shift, int reach) {
    constexpr int TOGETHER = WARPS * LANES / 8;  // gallery pixels
    extern __shared__ uint4 shared[];
    float* const features = reinterpret_cast<float*>(shared);  // [columns]
    const int pixel = blockIdx.x % pixels, batch = blockIdx.x / pixels;
    load_features<Q>(features, query + (long long)blockIdx.x * channels, channels, columns);
    __syncthreads();
    const int across = 2 * reach + 1, numbers = positions * across, below = pixel + shift * width;
    pages += (long long)batch * positions;
    out += (long long)batch * numbers * pixels + pixel;
    for (int first = 0; first < numbers; first += TOGETHER) {  // all lanes of a warp go on, as they add up together
        const int number = min(first + int(threadIdx.x) / 8, numbers - 1), aside = number % across - reach;
        const int column = pixel % width + aside;
        const bool inside = below >= 0 && below < pixels && column >= 0 && column < width;
        const int there = inside ? below + aside : 0, row = REORDERED ? gallery_row[there] : there;
        const Bits* const one[1] = {gallery + ((long long)pages[number / across] * rows + row) * columns};
        float total[1];
        differences_to<T, 1>(total, features, one, columns);
        if (threadIdx.x % 8 == 0 && first + int(threadIdx.x) / 8 < numbers)
            out[(long long)number * pixels] = inside ? total[0] : infinity();
    }
}
