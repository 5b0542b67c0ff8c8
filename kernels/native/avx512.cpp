// The scan with AVX-512 and its products of bfloat16 (Intel from Cooper Lake, AMD from Zen 4).
#if defined(__x86_64__) && defined(__GNUC__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c,fma")
#define SCAN avx512_scan
#define WITH_AVX512 1
#include "native.inc"
#else
#include "nearest.h"
const Scan avx512_scan = {};
#endif
