// Threads that share the blocks of a layer.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <new>

namespace {

// Waits a little without leaving the core.
inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The helpers of one calling thread. A helper joins a job through a door that the caller
// closes once no block is left, so a helper that wakes up late is not waited for.
// Between jobs helpers spin for some tens of microseconds, which is longer than from one
// layer to the next, and then sleep.
class Team {
 public:
  using Block = void (*)(const void* context, int64_t block);

  Team() {
    pthread_mutex_init(&mutex_, nullptr);
    pthread_cond_init(&new_job_, nullptr);
  }
  ~Team() {
    publish(kQuit);
    for (int64_t i = 0; i < n_helpers_; ++i) pthread_join(helpers_[i], nullptr);
  }

  // Calls `block(context, b)` for each b below `n_blocks`, at most `threads` at a time.
  // Throws `std::bad_alloc` if one of them did.
  void run(int64_t n_blocks, int64_t threads, Block block, const void* context) {
    while (n_helpers_ + 1 < threads && add_helper()) {
    }
    block_ = block, context_ = context, n_blocks_ = n_blocks;
    next_.store(0, std::memory_order_relaxed);
    n_places_.store(threads - 1, std::memory_order_relaxed);
    const uint64_t job = (door_.load() / kJob + 1) * kJob;
    publish(job | kOpen);
    take_blocks();
    door_.fetch_and(~kOpen);
    for (int i = 0; door_.load(std::memory_order_acquire) % kOpen; ++i)
      i < kSpins ? pause_core() : static_cast<void>(sched_yield());
    if (!has_memory_.exchange(true)) throw std::bad_alloc();
  }

 private:
  // The door: who is inside, whether it is open, whether all is over, number of the job.
  static constexpr uint64_t kOpen = 1u << 20, kQuit = 1u << 21, kJob = 1u << 22;
  static constexpr int kSpins = 2000;
  static constexpr int64_t kMostHelpers = 255;

  bool add_helper() {
    if (n_helpers_ == kMostHelpers) return false;
    const auto start = [](void* team) -> void* {
      static_cast<Team*>(team)->help();
      return nullptr;
    };
    if (pthread_create(&helpers_[n_helpers_], nullptr, start, this)) return false;
    ++n_helpers_;
    return true;
  }

  void publish(uint64_t door) {
    door_.store(door);
    if (!n_asleep_.load()) return;
    pthread_mutex_lock(&mutex_);
    pthread_cond_broadcast(&new_job_);
    pthread_mutex_unlock(&mutex_);
  }

  void take_blocks() {
    try {
      for (int64_t b; (b = next_.fetch_add(1, std::memory_order_relaxed)) < n_blocks_;)
        block_(context_, b);
    } catch (const std::bad_alloc&) {
      has_memory_.store(false);
    }
  }

  void help() {
    uint64_t last = door_.load() / kJob - 1, door;
    while (!((door = next_door(last)) & kQuit)) {
      last = door / kJob;
      while (door & kOpen && door / kJob == last)
        if (door_.compare_exchange_weak(door, door + 1)) {
          if (n_places_.fetch_sub(1) > 0) take_blocks();
          door_.fetch_sub(1, std::memory_order_release);
          break;
        }
    }
  }

  // Returns the door of another job than the last one.
  uint64_t next_door(uint64_t last) {
    uint64_t door;
    for (int i = 0; i < kSpins; ++i, pause_core())
      if ((door = door_.load()) / kJob != last || door & kQuit) return door;
    pthread_mutex_lock(&mutex_);
    ++n_asleep_;
    while ((door = door_.load()) / kJob == last && !(door & kQuit))
      pthread_cond_wait(&new_job_, &mutex_);
    --n_asleep_;
    pthread_mutex_unlock(&mutex_);
    return door;
  }

  std::atomic<uint64_t> door_{0};
  std::atomic<int64_t> next_{0}, n_places_{0};
  std::atomic<int> n_asleep_{0};
  std::atomic<bool> has_memory_{true};
  int64_t n_blocks_ = 0;
  Block block_ = nullptr;
  const void* context_ = nullptr;
  pthread_mutex_t mutex_;
  pthread_cond_t new_job_;
  pthread_t helpers_[kMostHelpers];
  int64_t n_helpers_ = 0;
};

// The team of the calling thread. A forked process has no helpers: it gets a new team,
// and the old one, whose threads it does not have, is left alone.
Team& team() {
  struct Own {
    pid_t process = 0;
    Team* team = nullptr;
    ~Own() {
      if (process == getpid()) delete team;
    }
  };
  thread_local Own own;
  if (own.process != getpid()) {
    own.team = new Team;
    own.process = getpid();
  }
  return *own.team;
}

// Calls `block(b)` for each b below `n_blocks`, by at most `threads` threads.
template <class F>
void parallel(int64_t n_blocks, int64_t threads, const F& block) {
  if (threads <= 1 || n_blocks <= 1) {
    for (int64_t b = 0; b < n_blocks; ++b) block(b);
    return;
  }
  const auto call = [](const void* f, int64_t b) { (*static_cast<const F*>(f))(b); };
  team().run(n_blocks, threads, call, &block);
}

}  // namespace
