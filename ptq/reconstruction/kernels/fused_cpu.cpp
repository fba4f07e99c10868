// The kernels of ptq/reconstruction/kernels/reference.py on a CPU, each in one pass over memory. They are plain loops, written
// so that the compiler turns them into vector instructions; ptq/reconstruction/kernels/fused_cpu.py compiles and calls them.
//
// Tensors are vectors here, all of a call in the same order. Sums are made for every chunk and then added up in
// the order of the chunks, so that they do not depend on the number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

constexpr long CHUNK = 1 << 14;  // elements
constexpr float ZETA = 1.1f, GAMMA = -0.1f;

struct BFloat16 {
    uint16_t bits;
};

inline float read(float value) { return value; }

inline float read(BFloat16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float number;
    std::memcpy(&number, &bits, 4);
    return number;
}

inline void write(float& place, float number) { place = number; }

inline void write(BFloat16& place, float number) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &number, 4);
    place.bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float clamp(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

// exp(x) = 2^k exp(r) with |r| <= ln(2) / 2, the latter by a polynomial: within 2 units in the last place.
inline float exponential(float x) {
    x = clamp(x, -87.0f, 88.0f);
    const float k = std::rint(x * 1.44269504f);
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.0f / 5040;
    for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        p = p * r + coefficient;
    const uint32_t bits = uint32_t(int32_t(k) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// What an activation is clamped to, and the grid it is quantized to: codes are less the zero point.
struct Grid {
    float low, high, first, last, scale, inverse;

    Grid(const float* grid, float scale)
        : low(grid[0]), high(grid[1]), first(grid[2]), last(grid[3]), scale(scale), inverse(1 / scale) {}

    float clamped(float x) const { return clamp(x, low, high); }
    float codes(float scaled) const { return clamp(std::rint(scaled), first, last); }
    bool inside(float scaled) const { return (scaled > first - 0.5f) & (scaled < last + 0.5f); }
};

// The loops, each over a chunk. Functions of their own, without pointers that may be null: so they are vectorized.

template <bool MASKED, class T>
float quantize(const T* x, const uint8_t* keep, const Grid grid, T* out, long n) {
#pragma omp simd
    for (long i = 0; i < n; ++i) {
        const float c = grid.clamped(read(x[i])), y = grid.codes(c * grid.inverse) * grid.scale;
        write(out[i], !MASKED || keep[i] ? y : c);
    }
    return 0;
}

template <bool MASKED, class T>
float quantize_gradient(const T* grad, const T* x, const uint8_t* keep, const Grid grid, T* grad_x, long n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; ++i) {
        const float g = read(grad[i]), v = read(x[i]), c = grid.clamped(v);
        const float scaled = c * grid.inverse, codes = grid.codes(scaled);
        const float through = !MASKED || keep[i] ? g : 0.0f;
        const float slope = grid.inside(scaled) ? codes - scaled : codes;
        const float passed = grid.inside(scaled) ? g : g - through;
        sum += through * slope;
        write(grad_x[i], v == c ? passed : 0.0f);
    }
    return sum;
}

template <class T>
float choose(const T* x, const T* y, const uint8_t* keep, T* out, long n) {
#pragma omp simd
    for (long i = 0; i < n; ++i) {
        const float a = read(x[i]), b = read(y[i]);
        write(out[i], keep[i] ? b : a);
    }
    return 0;
}

template <bool WEIGHTED, class T, class U>
float squared_error(const T* output, const U* target, const float* weight, long n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; ++i) {
        const float difference = read(output[i]) - read(target[i]);
        sum += difference * difference * (WEIGHTED ? weight[i] : 1.0f);
    }
    return sum;
}

template <bool WEIGHTED, class T, class U>
float squared_error_gradient(const T* output, const U* target, const float* weight, float factor, T* grad, long n) {
#pragma omp simd
    for (long i = 0; i < n; ++i) {
        const float slope = (read(output[i]) - read(target[i])) * factor;
        write(grad[i], slope * (WEIGHTED ? weight[i] : 1.0f));
    }
    return 0;
}

// The sum of `loop(from, count)` over all chunks of 0..n.
template <class Loop>
float chunks(long n, int threads, Loop loop) {
    const long count = (n + CHUNK - 1) / CHUNK;
    if (count <= 1) return loop(0L, n);
    std::vector<float> sums(count);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long c = 0; c < count; ++c) sums[c] = loop(c * CHUNK, c + 1 < count ? CHUNK : n - c * CHUNK);
    double total = 0;
    for (float sum : sums) total += sum;
    return float(total);
}

// Types and null pointers become template arguments of `use`.

template <class Use>
void typed(int type, Use use) {
    if (type)
        use(BFloat16{});
    else
        use(0.0f);
}

template <class Use>
void given(const void* pointer, Use use) {
    if (pointer)
        use(std::true_type{});
    else
        use(std::false_type{});
}

template <class T>
T* as(const void* pointer, T) {
    return static_cast<T*>(const_cast<void*>(pointer));
}

template <class T>
T* part(T* vector, long from) {
    return vector ? vector + from : nullptr;
}

}  // namespace

extern "C" {

// `type`: 0 for float32, 1 for bfloat16. Masks and weights may be null.

void quantize_forward(int type, const void* x, const uint8_t* keep, const float* scale, const float* grid_,
                      void* out, long n, int threads) {
    const Grid grid(grid_, *scale);
    typed(type, [=](auto t) {
        given(keep, [=](auto masked) {
            chunks(n, threads, [=](long from, long count) {
                return quantize<masked.value>(as(x, t) + from, part(keep, from), grid, as(out, t) + from, count);
            });
        });
    });
}

void quantize_backward(int type, const void* grad, const void* x, const uint8_t* keep, const float* scale,
                       const float* grid_, void* grad_x, float* grad_scale, long n, int threads) {
    const Grid grid(grid_, *scale);
    typed(type, [=](auto t) {
        given(keep, [=](auto masked) {
            *grad_scale = chunks(n, threads, [=](long from, long count) {
                return quantize_gradient<masked.value>(as(grad, t) + from, as(x, t) + from, part(keep, from), grid,
                                                       as(grad_x, t) + from, count);
            });
        });
    });
}

void blend(int type, const void* x, const void* y, const uint8_t* keep, void* out, long n, int threads) {
    typed(type, [=](auto t) {
        chunks(n, threads, [=](long from, long count) {
            return choose(as(x, t) + from, as(y, t) + from, part(keep, from), as(out, t) + from, count);
        });
    });
}

void error_forward(int type, const void* output, int target_type, const void* target, const float* weight,
                   float* error, long n, int threads) {
    typed(type, [=](auto t) {
        typed(target_type, [=](auto u) {
            given(weight, [=](auto weighted) {
                const float sum = chunks(n, threads, [=](long from, long count) {
                    return squared_error<weighted.value>(as(output, t) + from, as(target, u) + from, part(weight, from),
                                                         count);
                });
                *error = sum / float(n);
            });
        });
    });
}

void error_backward(int type, const void* output, int target_type, const void* target, const float* weight,
                    const float* grad, void* grad_output, long n, int threads) {
    const float factor = *grad * 2 / float(n);
    typed(type, [=](auto t) {
        typed(target_type, [=](auto u) {
            given(weight, [=](auto weighted) {
                chunks(n, threads, [=](long from, long count) {
                    return squared_error_gradient<weighted.value>(as(output, t) + from, as(target, u) + from,
                                                                  part(weight, from), factor, as(grad_output, t) + from,
                                                                  count);
                });
            });
        });
    });
}

// Weights are (channels, inner) here, and there is a scale for every channel.

void round_forward(const float* base, const float* alpha, const float* scale, const float* sharpness_,
                   float qmin, float qmax, float* out, long channels, long inner, int threads) {
    const float sharpness = *sharpness_;
    const bool large = channels * inner > CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads) if (large)
    for (long c = 0; c < channels; ++c) {
        const float channel_scale = scale[c];
#pragma omp simd
        for (long i = c * inner; i < (c + 1) * inner; ++i) {
            const float h = clamp(sigmoid(sharpness * alpha[i]) * (ZETA - GAMMA) + GAMMA, 0.0f, 1.0f);
            out[i] = clamp(base[i] + h, qmin, qmax) * channel_scale;
        }
    }
}

void round_backward(const float* grad, const float* base, const float* alpha, const float* scale,
                    const float* sharpness_, float qmin, float qmax, float* grad_alpha, long channels,
                    long inner, int threads) {
    const float sharpness = *sharpness_;
    const bool large = channels * inner > CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads) if (large)
    for (long c = 0; c < channels; ++c) {
        const float channel_scale = scale[c];
#pragma omp simd
        for (long i = c * inner; i < (c + 1) * inner; ++i) {
            const float s = sigmoid(sharpness * alpha[i]), stretched = s * (ZETA - GAMMA) + GAMMA;
            const float codes = base[i] + clamp(stretched, 0.0f, 1.0f);
            const bool moves = (stretched > 0) & (stretched < 1) & (codes > qmin) & (codes < qmax);
            const float slope = (ZETA - GAMMA) * sharpness * s * (1 - s);
            grad_alpha[i] = moves ? grad[i] * channel_scale * slope : 0.0f;
        }
    }
}

}  // extern "C"
