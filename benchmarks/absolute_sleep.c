// SPDX-License-Identifier: Apache-2.0
// The least a tick can be late here: a C loop on clock_nanosleep with absolute deadlines.
//
//     absolute_sleep RATE_HZ SECONDS PRIORITY SLICE_NS
//
// PRIORITY of SCHED_FIFO, 0 for none. SLICE_NS of SCHED_OTHER, 0 for the system's. The timer slack
// is 1 ns. Standard output, one line each:
// ticks missed, processor time used and wall time (ns), then of each tick the time that it was
// due and the time that it began (ns, monotonic). A tick whose period is over is skipped.
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define S 1000000000LL

static long long now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * S + t.tv_nsec;
}

int main(int count, char **words) {
  if (count != 5) return 2;
  long long period = S / atof(words[1]), missed = 0, n = 0;
  long long most = atof(words[2]) * S / period;
  struct sched_param fifo = {.sched_priority = atoi(words[3])};
  if (fifo.sched_priority && sched_setscheduler(0, SCHED_FIFO, &fifo)) return perror("SCHED_FIFO"), 1;
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, rest[2];
  } slice = {.size = 48, .nice = getpriority(PRIO_PROCESS, 0), .runtime = atoll(words[4])};
  if (slice.runtime && syscall(SYS_sched_setattr, 0, &slice, 0)) return perror("slice"), 1;
  if (prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0)) return perror("PR_SET_TIMERSLACK"), 1;
  long long *due = calloc(2 * most + 2, sizeof *due), *begun = due + most + 1;
  for (long long i = 0; i <= most; i++) begun[i] = 1;  // touched: no page fault in the loop
  long long t0 = now(CLOCK_MONOTONIC) + period, used = now(CLOCK_PROCESS_CPUTIME_ID);
  for (long long i = 0; i < most; i++, n++) {
    long long deadline = t0 + i * period, begin;
    struct timespec t = {deadline / S, deadline % S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) {
    }
    begin = now(CLOCK_MONOTONIC);
    due[n] = deadline;
    begun[n] = begin;
    long long behind = (begin - deadline) / period;
    missed += behind;
    i += behind;
  }
  used = now(CLOCK_PROCESS_CPUTIME_ID) - used;
  printf("%lld %lld %lld\n", missed, used, now(CLOCK_MONOTONIC) - t0 + period);
  for (long long i = 0; i < n; i++) printf("%lld %lld\n", due[i], begun[i]);
  return 0;
}
