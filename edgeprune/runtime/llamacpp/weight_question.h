// llama.cpp asks where each weight shall stand, with a buffer of no size for it. Who does not know
// beforehand which model is loaded can find out then.
#pragma once

namespace edgeprune {

// Call `found_out` before each answer from here on.
void on_weight_question(void (*found_out)());

}  // namespace edgeprune
