// The native search's functions, as Python calls them through ctypes: see search.py.
#include "nearest.h"
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define KNOWN 1
#endif

namespace {

#if KNOWN
// Linux gives the registers of AMX to processes that ask for them.
bool has_amx() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool tiles = d >> 24 & 1, bfloat16 = d >> 22 & 1;
    return tiles && bfloat16 && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16");
}
#endif

const Scan *const SCANS[] = {&portable_scan, &avx512_scan, &amx_scan};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Return the instruction sets that can be used: bit 0 portable, 1 AVX-512 with bfloat16, 2 AMX.
EXPORT int64_t spade_instruction_sets() {
#if KNOWN
    if (!has_avx512()) return 1;
    return has_amx() ? 7 : 3;
#else
    return 1;
#endif
}

// Return the sizes of the structures that Python has, too, in turn: of others, nothing may be called.
EXPORT int64_t spade_size(int64_t number) {
    const int64_t sizes[] = {sizeof(Plan), sizeof(Query), sizeof(Found), sizeof(Wanted), sizeof(Slot), sizeof(Part), sizeof(List), sizeof(ListCodes)};
    return sizes[number];
}

EXPORT int64_t spade_workspace(int64_t set, const Plan *plan) { return SCANS[set]->workspace(plan); }

EXPORT void spade_prepare(int64_t set, const Plan *plan, void *memory, const Query *query) {
    SCANS[set]->prepare(plan, memory, query);
}

EXPORT void spade_scan(int64_t set, const Plan *plan, void *memory, const Slot *slots, int64_t count, int64_t threads,
                       int64_t mine, int64_t from, int64_t to) {
    SCANS[set]->scan(plan, memory, slots, count, threads, mine, from, to);
}

EXPORT void spade_measure(int64_t set, const Plan *plan, void *memory, const Query *query, const Found *found,
                          int64_t threads, const int64_t *slots, int64_t from, int64_t to, float *distances,
                          int64_t *matches) {
    SCANS[set]->measure(plan, memory, query, found, threads, slots, from, to, distances, matches);
}

EXPORT int64_t spade_window_bytes(int64_t set, const Plan *plan) { return SCANS[set]->window_bytes(plan); }

EXPORT void spade_window(int64_t set, const Plan *plan, void *memory, const Query *query, const int64_t *slots,
                         int64_t count, int64_t window, int64_t from, int64_t to, float *distances, int64_t *matches) {
    SCANS[set]->window(plan, memory, query, slots, count, window, from, to, distances, matches);
}

EXPORT void spade_decode_map(int64_t set, const Plan *plan, void *memory, int64_t slot, uint16_t *const *out) {
    SCANS[set]->decode_map(plan, memory, slot, out);
}

EXPORT void spade_encode_level(int64_t set, const uint16_t *values, int64_t points, int64_t channels, int64_t code,
                               uint8_t *codes, uint8_t *stored) {
    SCANS[set]->encode_level(values, points, channels, code, codes, stored);
}

EXPORT int64_t spade_decode_level(int64_t set, const uint8_t *stored, int64_t points, int64_t channels, int64_t code,
                                  float *room, uint16_t *out) {
    return SCANS[set]->decode_level(stored, points, channels, code, room, out);
}

EXPORT void spade_moments(int64_t set, const uint16_t *values, int64_t count, double *sums) {
    SCANS[set]->moments(values, count, sums);
}

EXPORT void spade_decode_rows(int64_t set, const uint8_t *codes, int64_t points, int64_t channels, int64_t size,
                              int64_t whole, int64_t width, const float *tables, const float *parts, float *row,
                              uint16_t *out) {
    SCANS[set]->decode_rows(codes, points, channels, size, whole, width, tables, parts, row, out);
}

EXPORT int64_t spade_distances_to_rows(int64_t set, int64_t file, int64_t offset, const int64_t *rows, int64_t count,
                                       int64_t dim, const double *query, float *row, float *distances) {
    return SCANS[set]->distances_to_rows(file, offset, rows, count, dim, query, row, distances);
}

EXPORT int64_t spade_nearest_in_lists(int64_t set, const List *lists, int64_t number, const ListCodes *how,
                                      const float *query, const int64_t *without, int64_t left_out, int64_t count,
                                      float *room, void *found) {
    return SCANS[set]->nearest_in_lists(lists, number, how, query, without, left_out, count, room, found);
}
