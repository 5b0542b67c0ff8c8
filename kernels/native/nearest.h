// What Python and the scans exchange: library.py has the same structures.
#pragma once
#include <stdint.h>

enum { SIDE = 16, DEPTH = 32, TILE = SIDE * DEPTH, MOST_LEVELS = 8 };  // rows and channels of a tile; its values
enum { MOST_PARTS = 16, MOST_WHOLE = 4 };

enum Type : int64_t { FLOAT16, FLOAT32, BFLOAT16 };  // of a pool

enum Scaling : int64_t { NONE, LENGTH, ROOT, CHANNEL };  // of a cell's vector

enum Code : int64_t { VALUES, BYTES, NIBBLES, ROWS };  // how a map is stored: see kernels/codes.py

struct Part {               // a level of a gallery's maps, and how it is compared
    const uint8_t *stored;  // [slots, bytes]: VALUES, float16 [height * width, channels], or codes
    int64_t bytes, code;
    int64_t size, whole;            // ROWS: bytes of a pixel, and how many of them name rows over all channels
    int64_t of_row;                 // ROWS: channels of the rows that the others name
    const int16_t *tables, *parts;  // ROWS: [whole, 256, channels], [size - whole, 256, of_row]
    float unit;                     // ROWS: that tables hold whole numbers of
    int64_t height, width, channels;
    int64_t rows, columns;  // of the grid that it is averaged to
    int64_t scaling;
    float length, factor;       // of vectors in the mean; of the scaled values
    const float *mean, *scale;  // [channels], for CHANNEL; scale = 1 / deviation
    int64_t first;              // of its channels, in the level that it is joined to
};

struct Level {
    int64_t pixels, channels;
    int64_t steps;          // of DEPTH channels, the last one padded with zeros
    int64_t rows;           // that are stored, a multiple of SIDE
    const void *pool;       // [slots, pixels, channels]; null where maps are codes
    int64_t first, parts;   // those of the plan's parts that are joined to this level
    const int32_t *order;   // [rows], the pixel of each row; -1: none
    const int32_t *places;  // [cells], the row that covers each cell; null: row c covers cell c
    int64_t height, width;
    int64_t reach;          // rows and columns that a pixel and its match are apart at most, where there is a window
    const float *centre;    // [channels], subtracted: it keeps norms, and so rounding, small
    float factor, weight;   // of features, of squared distances: factor = sqrt(weight)
};

struct Plan {
    int64_t levels, type;
    int64_t planes, cells;  // level 0 has planes * cells rows; cells is a multiple of SIDE
    int64_t pixels, k;
    float tolerance;  // relative to the sum of squared norms: the rounding of float32 sums
    float tiny;       // the same, whatever the norms
    int64_t parts;
    const Part *part;  // what maps are in codes of; null: the pool holds values
    Level level[MOST_LEVELS];
};

struct Query {
    const float *features[MOST_LEVELS];  // [pixels, channels]
    uint16_t *tiles[MOST_LEVELS];  // bfloat16 [rows / SIDE, steps, DEPTH / 2, SIDE, 2]: -2 * factor * (q - centre)
    float *norms[MOST_LEVELS];     // [rows], squared
    float *moved;                  // [planes * cells], norms of what rounding to bfloat16 took away
    float *total;                  // [planes * cells], squared norms over all levels
};

struct Candidate {
    int32_t row, position, cell;
    float root;  // its distance's root is no less
};

struct Found {     // by one thread, of one query
    float *best;   // [planes * cells, k], upper bounds of the roots of cells' distances, ascending
    float *kth;    // [planes * cells], one of the k-th distance's root, by other threads' cells, too
    float *root;   // [planes * cells], the same plus what rounding moved the query's row by; NaN: there is no pixel
    Candidate *kept;
    int64_t count, room;
    int64_t full;  // 1: too many candidates; the query must be searched in another way
};

struct Wanted {
    const Query *query;
    Found *found;  // [threads]
    int64_t position;
};

struct Slot {
    int64_t number;
    const Wanted *wanted;  // [count], by these queries
    int64_t count;
};

struct List {              // an inverted list
    const uint8_t *codes;  // [size, dim]
    const int64_t *keys;   // [size]
    int64_t size;
    const float *centre;  // [dim], subtracted before they were encoded
};

struct ListCodes {               // how inverted lists hold descriptors: lowest + step * code
    const float *lowest, *step;  // [dim], padded with zeros to a multiple of SIDE
    int64_t dim;
};

struct Scan {
    int64_t (*workspace)(const Plan *);
    void (*prepare)(const Plan *, void *, const Query *);
    void (*scan)(const Plan *, void *, const Slot *, int64_t, int64_t, int64_t, int64_t, int64_t);
    void (*measure)(const Plan *, void *, const Query *, const Found *, int64_t, const int64_t *, int64_t, int64_t,
                    float *, int64_t *);
    int64_t (*window_bytes)(const Plan *);
    void (*window)(const Plan *, void *, const Query *, const int64_t *, int64_t, int64_t, int64_t, int64_t, float *,
                   int64_t *);
    void (*encode_level)(const uint16_t *, int64_t, int64_t, int64_t, uint8_t *, uint8_t *);
    int64_t (*decode_level)(const uint8_t *, int64_t, int64_t, int64_t, float *, uint16_t *);
    void (*moments)(const uint16_t *, int64_t, double *);
    void (*decode_rows)(const uint8_t *, int64_t, int64_t, int64_t, int64_t, int64_t, const float *, const float *,
                        float *, uint16_t *);
    void (*decode_map)(const Plan *, void *, int64_t, uint16_t *const *);
    int64_t (*distances_to_rows)(int64_t, int64_t, const int64_t *, int64_t, int64_t, const double *, float *, float *);
    int64_t (*nearest_in_lists)(const List *, int64_t, const ListCodes *, const float *, const int64_t *, int64_t, int64_t,
                                float *, void *);
};

extern const Scan portable_scan, avx512_scan, amx_scan;
