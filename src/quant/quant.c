#include "quant/quant.h"

#include <strings.h>

#include "quant/quant_impl.h"

static const quant_family *const FAMILIES[] = {&quant_plain,   &quant_legacy,  &quant_kquants,
                                               &quant_iquants, &quant_ternary, &quant_fp4};

const quant_fmt *quant_at(size_t i)
{
    for (size_t f = 0; f < CK_COUNT(FAMILIES); f++) {
        if (i < FAMILIES[f]->n)
            return &FAMILIES[f]->row[i];
        i -= FAMILIES[f]->n;
    }
    return NULL;
}

const quant_fmt *quant_get(quant_id id)
{
    for (size_t f = 0; f < CK_COUNT(FAMILIES); f++)
        for (size_t i = 0; i < FAMILIES[f]->n; i++)
            if (FAMILIES[f]->row[i].id == id)
                return &FAMILIES[f]->row[i];
    return NULL;
}

const quant_fmt *quant_by_name(const char *name)
{
    const quant_fmt *fmt;
    for (size_t i = 0; (fmt = quant_at(i)); i++)
        if (!strcasecmp(fmt->name, name))
            return fmt;
    return NULL;
}

bool quant_bytes(quant_id id, uint64_t n, uint64_t *out)
{
    const quant_fmt *fmt = quant_get(id);
    return fmt && n % fmt->block == 0 && ck_mul(n / fmt->block, fmt->bytes, out);
}

uint8_t quant_f32_to_e4m3(float f)
{
    uint32_t u = quant_f32_bits(f), m = u & 0x7FFFFFFFu, r;
    if (m > 0x7F800000u)
        r = 0x7F;
    else if (m >= 0x43E00000u) /* 448 */
        r = 0x7E;
    else if (m < 0x3C800000u) /* below 2^-6: subnormal, the addition rounds at 2^-9 */
        r = quant_f32_bits(quant_bits_f32(m) + 0x1p14f) - 0x46800000u;
    else
        r = (m + 0x7FFFFu + (m >> 20 & 1) - 0x3C000000u) >> 20;
    return (uint8_t)(r | (u >> 24 & 0x80u));
}

uint8_t quant_f32_to_e5m2(float f)
{
    uint32_t u = quant_f32_bits(f), m = u & 0x7FFFFFFFu, r;
    if (m > 0x7F800000u)
        r = 0x7F;
    else if (m >= 0x47600000u) /* 57344 */
        r = 0x7B;
    else if (m < 0x38800000u) /* below 2^-14: units of 2^-16, the last place of 2^7 */
        r = quant_f32_bits(quant_bits_f32(m) + 0x1p7f) - 0x43000000u;
    else
        r = (m + 0xFFFFFu + (m >> 21 & 1) - 0x38000000u) >> 21;
    return (uint8_t)(r | (u >> 24 & 0x80u));
}

uint8_t quant_f32_to_e2m1(float f)
{
    /* Midpoints between neighbouring magnitudes 0 .5 1 1.5 2 3 4 6; at a midpoint the even code wins. */
    static const float mid[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    float a = f < 0 ? -f : f;
    unsigned r = 0;
    for (unsigned i = 0; i < 7; i++)
        r += i & 1 ? a >= mid[i] : a > mid[i];
    return (uint8_t)(r | (f < 0 ? 8u : 0u));
}
