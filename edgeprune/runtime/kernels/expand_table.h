// For processors without an instruction that expands: what a table look-up of 8 lanes takes from
// where. An entry above 7 (or 15) makes both pshufb and tbl give zero; its bits say "nothing kept".
#pragma once

#include "layout.h"

namespace edgeprune {
namespace {

constexpr uint8_t kNone = 0x88;

struct ExpandTable {
    alignas(64) uint8_t bytes[256][8];   // lanes of one byte
    alignas(64) uint8_t words[256][16];  // lanes of two
    uint8_t count[256];

    constexpr ExpandTable() : bytes(), words(), count() {
        for (int mask = 0; mask < 256; mask++) {
            uint8_t next = 0;
            for (int lane = 0; lane < 8; lane++) {
                const bool kept = mask >> lane & 1;
                bytes[mask][lane] = kept ? next : kNone;
                words[mask][2 * lane] = kept ? 2 * next : kNone;
                words[mask][2 * lane + 1] = kept ? 2 * next + 1 : kNone;
                next += kept;
            }
            count[mask] = next;
        }
    }
};

constexpr ExpandTable kExpand;

}  // namespace
}  // namespace edgeprune
