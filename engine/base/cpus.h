// SPDX-License-Identifier: Apache-2.0
// How many CPUs this process may use: affinity mask, lowered by the CPU quota of its control groups (v1, v2).
// Any thread.
#ifndef HT_CPUS_H
#define HT_CPUS_H

unsigned ht_cpus_usable(void); // at least 1, at most HT_MAX_THREADS
// CPUs that the quotas allow, rounded up; 0 = no quota. `self` is the text of /proc/self/cgroup, `root` the
// folder where control groups are mounted (apart so that tests can make their own).
unsigned ht_cpus_of_cgroup(const char *self, const char *root);

#endif
