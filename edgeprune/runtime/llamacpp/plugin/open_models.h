// Which models a foreign program is loading: nobody tells a backend, but their files are open.
#pragma once

namespace edgeprune {

// Claim, for this thread, what gains from packing of the GGUF files that are open in this process.
// Called whenever llama.cpp asks where a weight shall stand; while the same files are open, or none
// is (llama.cpp asks again when a model is measured or has been loaded), what was claimed stays so.
void claim_of_open_models();

}  // namespace edgeprune
