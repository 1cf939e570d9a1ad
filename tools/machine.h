// SPDX-License-Identifier: Apache-2.0
// Facts about this machine and process, from /proc. Main thread.
#ifndef HEARTH_TOOLS_MACHINE_H
#define HEARTH_TOOLS_MACHINE_H
#include <stdbool.h>
#include <stdint.h>

unsigned machine_threads(void); // cores this process may use
void machine_cpu_name(char name[128]);
double machine_peak_rss_mib(void);   // VmHWM; 0 if unknown
double machine_process_age_ms(void); // since exec
uint64_t machine_memory_total(void);
uint64_t machine_memory_available(void);
bool machine_cpu_has(const char *flag); // "avx2": from the kernel's list

#endif
