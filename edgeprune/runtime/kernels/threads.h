#pragma once

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace edgeprune {

// Call work(0), ..., work(threads - 1), each on a thread of its own, and wait for all. Parts must not
// wait for each other: where the system gives no more threads, the caller's does what is left. What a
// part throws is thrown again when all are done.
template <class Work>
void in_parallel(int threads, const Work &work) {
    std::mutex mutex;
    std::exception_ptr failure;
    const auto part_of_it = [&](int part) {
        try {
            work(part);
        } catch (...) {
            const std::lock_guard lock(mutex);
            failure = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    int next = 1;
    try {
        for (; next < threads; next++)
            others.emplace_back([&part_of_it, part = next] { part_of_it(part); });
    } catch (const std::exception &) {  // no thread, or no memory for one
    }
    part_of_it(0);
    for (; next < threads; next++) part_of_it(next);
    for (auto &other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

// What `work` returns, or `failed` if there was not enough memory: nothing is thrown through C.
template <class Result, class Work>
Result or_failed(Result failed, const Work &work) noexcept {
    try {
        return work();
    } catch (...) {
        return failed;
    }
}

}  // namespace edgeprune
