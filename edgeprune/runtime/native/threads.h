#pragma once

#include <thread>
#include <vector>

namespace edgeprune {

// Call work(0), ..., work(threads - 1), each on a thread of its own, and wait for all.
template <class Work>
void in_parallel(int threads, const Work &work) {
    std::vector<std::thread> others;
    for (int part = 1; part < threads; part++) others.emplace_back([&work, part] { work(part); });
    work(0);
    for (auto &other : others) other.join();
}

}  // namespace edgeprune
