/* AMX's tile instructions in plain C, after the pseudocode of Intel's manual; avx512_emulated.h includes mm_amx.c
 * behind them. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef struct emulated_tile {
    uint8_t row[16][64];
} emulated_tile;

static emulated_tile emulated[8];
static struct { uint8_t palette, start_row, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; } emulated_config;

static inline void emulated_zero(int t) { memset(&emulated[t], 0, sizeof emulated[t]); }

static inline void emulated_load(int t, const void *p, long stride)
{
    emulated_zero(t);
    for (int r = 0; r < emulated_config.rows[t]; r++)
        memcpy(emulated[t].row[r], (const uint8_t *)p + r * stride, emulated_config.colsb[t]);
}

static inline void emulated_store(int t, void *p, long stride)
{
    for (int r = 0; r < emulated_config.rows[t]; r++)
        memcpy((uint8_t *)p + r * stride, emulated[t].row[r], emulated_config.colsb[t]);
}

/* d += a (signed) . b (signed or not), groups of four bytes; the shapes that the instruction would fault on are not
 * let through. */
static inline void emulated_dot(int d, int a, int b, int b_signed)
{
    int rows = emulated_config.rows[a], k = emulated_config.colsb[a] / 4, n = emulated_config.colsb[b] / 4;
    if (emulated_config.rows[d] != rows || emulated_config.rows[b] != k || emulated_config.colsb[d] != 4 * n)
        __builtin_trap();
    for (int m = 0; m < rows; m++)
        for (int j = 0; j < n; j++) {
            int32_t sum;
            memcpy(&sum, &emulated[d].row[m][4 * j], 4);
            for (int i = 0; i < 4 * k; i++) {
                uint8_t v = emulated[b].row[i / 4][4 * j + i % 4];
                sum += (int8_t)emulated[a].row[m][i] * (b_signed ? (int8_t)v : v);
            }
            memcpy(&emulated[d].row[m][4 * j], &sum, 4);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbsud
#define _tile_loadconfig(c) memcpy(&emulated_config, (c), sizeof emulated_config)
#define _tile_release() memset(&emulated_config, 0, sizeof emulated_config)
#define _tile_zero(t) emulated_zero(t)
#define _tile_loadd(t, p, stride) emulated_load(t, p, stride)
#define _tile_stored(t, p, stride) emulated_store(t, p, stride)
#define _tile_dpbssd(d, a, b) emulated_dot(d, a, b, 1)
#define _tile_dpbsud(d, a, b) emulated_dot(d, a, b, 0)
