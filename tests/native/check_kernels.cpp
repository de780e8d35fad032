// Every kernel that the processor runs, beside a float64 reference, on random matrices; built by
// tests/slow/test_native.py under sanitizers, and for ARM. Ends with 1 and a line on the first mistake.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "edgeprune_kernels.h"

namespace {

std::mt19937 chance(1);

int64_t whole(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(chance);
}

float normal() { return std::normal_distribution<float>()(chance); }

float from_bf16(uint16_t bits) {
    const uint32_t word = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

// Normal half-precision numbers only.
uint16_t to_f16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    const int exponent = static_cast<int>(word >> 23 & 255) - 112;
    if (exponent <= 0) return 0;
    return static_cast<uint16_t>(word >> 16 & 0x8000) | exponent << 10 | (word >> 13 & 1023);
}

float from_f16(uint16_t bits) {
    if ((bits & 0x7FFF) == 0) return 0;
    const uint32_t word = uint32_t{bits & 0x8000U} << 16 | ((bits >> 10 & 31) + 112) << 23 |
                          (bits & 1023U) << 13;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

struct Tensor {
    std::vector<uint8_t> bytes;
    std::vector<double> values;
};

bool is_float(int type) { return type == EP_F32 || type == EP_F16 || type == EP_BF16; }

// The codes that a layout has.
int lowest(const ep_shape &shape) {
    return shape.layout >= EP_NARROW ? -(1 << (shape.bits - 1)) : shape.type == EP_Q8_0 ? -128 : -8;
}
int highest(const ep_shape &shape) { return -lowest(shape) - (shape.layout != EP_MASKED); }

Tensor make(const ep_shape &shape, double density) {
    Tensor t;
    const auto put16 = [&](uint16_t bits) {
        t.bytes.push_back(bits & 255);
        t.bytes.push_back(bits >> 8);
    };
    const auto kept = [&] { return std::uniform_real_distribution<>()(chance) < density; };
    uint16_t scale = 0;
    for (int64_t block = 0; block < shape.rows * shape.cols / 32; block++) {
        if (is_float(shape.type)) {
            for (int i = 0; i < 32; i++) {
                const float value = kept() ? normal() : 0;
                uint32_t word;
                std::memcpy(&word, &value, 4);
                if (shape.type == EP_F32) {
                    put16(word & 0xFFFF);
                    put16(word >> 16);
                    t.values.push_back(value);
                    continue;
                }
                const uint16_t bits = shape.type == EP_F16 ? to_f16(value) : word >> 16;
                put16(bits);
                t.values.push_back(shape.type == EP_F16 ? from_f16(bits) : from_bf16(bits));
            }
            continue;
        }
        if (block % shape.group == 0) scale = to_f16(0.01F + std::fabs(normal()));
        put16(scale);
        int codes[32];
        for (int &code : codes) {
            code = static_cast<int>(whole(lowest(shape), highest(shape)));
            if (!kept()) code = 0;
            t.values.push_back(double{from_f16(scale)} * code);
        }
        if (shape.type == EP_Q8_0)
            for (const int code : codes) t.bytes.push_back(static_cast<uint8_t>(code));
        else
            for (int i = 0; i < 16; i++)
                t.bytes.push_back((codes[i] + 8) | (codes[i + 16] + 8) << 4);
    }
    return t;
}

// As half precision has them, of numbers that are not small.
double to_11_bits(float value) {
    int exponent;
    const double digits = std::frexp(value, &exponent);
    return std::ldexp(std::nearbyint(std::ldexp(digits, 11)), exponent - 11);
}

// Activations as 8- and 4-bit weights meet them.
std::vector<double> rounded(const std::vector<float> &x, bool to_bytes) {
    std::vector<double> result(x.begin(), x.end());
    for (size_t block = 0; to_bytes && block < x.size(); block += 32) {
        float largest = 0;
        for (size_t i = block; i < block + 32; i++) largest = std::max(largest, std::fabs(x[i]));
        for (size_t i = block; i < block + 32 && largest > 0; i++)
            result[i] = double{std::nearbyint(x[i] * (127 / largest))} * to_11_bits(largest / 127);
    }
    return result;
}

int own_bits(int type) { return type == EP_F32 ? 32 : is_float(type) ? 16 : type == EP_Q8_0 ? 8 : 4; }

// A form that holds what `make` makes for a layout.
ep_form form_of(const ep_shape &shape) {
    if (shape.layout == EP_NARROW) return {shape.bits, 0, shape.group};
    if (shape.layout == EP_MASKED) return {shape.bits, 1, shape.group};
    return {own_bits(shape.type), 1, 1};
}

// A tensor as `.packed.gguf` files hold it: scales, mask, kept codes (or bit planes of them).
std::vector<uint8_t> in_a_file(const ep_shape &shape, const ep_form &form, const Tensor &t) {
    const bool wide = is_float(shape.type);
    const int size = shape.type == EP_F32 ? 4 : wide ? 2 : 1;
    std::vector<uint8_t> scales, mask(shape.rows * shape.cols / 8), codes;
    size_t at = 0;
    for (int64_t block = 0; block < shape.rows * shape.cols / 32; block++) {
        if (!wide && block % form.group == 0)
            scales.insert(scales.end(), t.bytes.begin() + at, t.bytes.begin() + at + 2);
        at += wide ? 0 : 2;
        for (int i = 0; i < 32; i++) {
            const uint8_t *own = t.bytes.data() + at;
            uint32_t code = 0;
            if (shape.type == EP_Q4_0)
                code = i < 16 ? own[i] & 15 : own[i - 16] >> 4;
            else
                std::memcpy(&code, own + size * i, size);
            const uint32_t zero = shape.type == EP_Q4_0 ? 8 : 0;
            if (form.masked && code == zero) continue;
            mask[block * 4 + i / 8] |= 1 << i % 8;
            if (form.bits != own_bits(shape.type)) {
                const bool above = form.masked && code > zero;
                code = code - zero + (1 << (form.bits - 1)) - above;
            }
            for (int byte = 0; byte < size; byte++) codes.push_back(code >> 8 * byte & 255);
        }
        at += shape.type == EP_Q4_0 ? 16 : 32 * size;
    }
    if (form.bits % 8 != 0) {
        const size_t plane = (codes.size() + 7) / 8;
        std::vector<uint8_t> planes(form.bits * plane);
        for (size_t i = 0; i < codes.size(); i++)
            for (int bit = 0; bit < form.bits; bit++)
                planes[bit * plane + i / 8] |= (codes[i] >> bit & 1) << i % 8;
        codes = planes;
    }
    if (form.masked) scales.insert(scales.end(), mask.begin(), mask.end());
    scales.insert(scales.end(), codes.begin(), codes.end());
    return scales;
}

// The same matrix from a file; and whatever a damaged file holds, nothing outside it is touched.
bool check_file(const ep_shape &shape, const Tensor &t, const std::vector<uint8_t> &packed) {
    const int threads = static_cast<int>(whole(1, 3));
    const ep_form form = form_of(shape);
    std::vector<uint8_t> file = in_a_file(shape, form, t), again(packed.size());
    const auto size_of = [&] {
        return ep_packed_size_of_file(&shape, &form, file.data(), file.size(), threads);
    };
    const auto pack = [&](size_t size) {
        return ep_pack_file(&shape, &form, file.data(), file.size(), again.data(), size, threads);
    };
    const size_t size = size_of();
    if (size != packed.size() || pack(size) != 0 || again != packed) return false;
    for (int i = 0; i < 8; i++) file[whole(0, file.size() - 1)] = static_cast<uint8_t>(whole(0, 255));
    file.resize(file.size() - whole(0, 1));
    const size_t other = size_of();
    if (other == 0) return true;
    again.resize(other);
    const int code = pack(other);  // damaged scales may not be shared any more
    return code == 0 || (code == -1 && shape.group > 1);
}

bool check(const char *kernel, int type, int layout, int bits, double density) {
    const int32_t group = is_float(type) ? 1 : 1 << whole(0, 2);
    const ep_shape shape{type, layout, bits, group, whole(1, 70), 32 * group * whole(1, 9)};
    const int threads = static_cast<int>(whole(1, 4));
    const int64_t tokens = whole(1, 20);
    const Tensor t = make(shape, density);
    const size_t size = ep_packed_size(&shape, t.bytes.data(), threads);
    std::vector<uint8_t> packed(size);
    if (ep_pack(&shape, t.bytes.data(), packed.data(), size - 1, threads) != -1) return false;
    if (ep_pack(&shape, t.bytes.data(), packed.data(), size, threads) != 0) return false;
    if (!check_file(shape, t, packed)) return false;
    std::vector<uint8_t> again(t.bytes.size());
    ep_unpack(&shape, packed.data(), again.data(), threads);
    if (again != t.bytes) return false;
    std::vector<float> found(shape.cols);
    const int64_t row = whole(0, shape.rows - 1);
    const bool looked_up = ep_row(&shape, packed.data(), row, found.data()) == 0;
    if (looked_up != (layout == EP_DENSE || layout == EP_NARROW)) return false;
    for (int64_t c = 0; looked_up && c < shape.cols; c++)
        if (found[c] != static_cast<float>(t.values[row * shape.cols + c])) return false;
    std::vector<float> x(tokens * shape.cols), y(tokens * shape.rows);
    for (float &one : x) one = normal();
    ep_matmul(&shape, packed.data(), x.data(), shape.cols, y.data(), shape.rows, tokens, threads);
    const auto a = rounded(x, type == EP_Q8_0 || type == EP_Q4_0);
    for (int64_t token = 0; token < tokens; token++) {
        for (int64_t row = 0; row < shape.rows; row++) {
            double sum = 0, size_of_terms = 1e-30;
            for (int64_t c = 0; c < shape.cols; c++) {
                const double term = t.values[row * shape.cols + c] * a[token * shape.cols + c];
                sum += term;
                size_of_terms += std::fabs(term);
            }
            const double error = std::fabs(sum - y[token * shape.rows + row]) / size_of_terms;
            if (!(error < 2e-6)) {
                std::printf("%s type %d layout %d bits %d group %d %lldx%lld: error %g\n", kernel,
                            type, layout, bits, group, static_cast<long long>(shape.rows),
                            static_cast<long long>(shape.cols), error);
                return false;
            }
        }
    }
    return true;
}

}  // namespace

int main(int count, char **arguments) {
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 20;
    std::istringstream names(ep_kernels());
    int checked = 0;
    struct {
        int type, layout, bits;
    } const all[] = {
        {EP_F32, EP_SPARSE, 0},  {EP_F32, EP_DENSE, 0},  {EP_F16, EP_SPARSE, 0},
        {EP_F16, EP_DENSE, 0},   {EP_BF16, EP_SPARSE, 0}, {EP_BF16, EP_DENSE, 0},
        {EP_Q8_0, EP_SPARSE, 0}, {EP_Q8_0, EP_DENSE, 0}, {EP_Q4_0, EP_SPARSE, 0},
        {EP_Q4_0, EP_DENSE, 0},  {EP_Q4_0, EP_NARROW, 2}, {EP_Q4_0, EP_NARROW, 3},
        {EP_Q4_0, EP_MASKED, 1}, {EP_Q4_0, EP_MASKED, 2},
    };
    for (std::string name; names >> name;) {
        if (ep_use(name.c_str()) != 0) return 1;
        for (int round = 0; round < rounds; round++)
            for (const auto &one : all)
                for (const double density : {0.0, 0.5, 1.0, (round % 10) / 10.0}) {
                    if (!check(name.c_str(), one.type, one.layout, one.bits, density)) return 1;
                    checked++;
                }
    }
    std::printf("%d matrices, kernels %s\n", checked, ep_kernels());
}
