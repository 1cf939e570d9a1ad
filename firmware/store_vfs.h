// SPDX-License-Identifier: Apache-2.0
// SQLite's files through the hooks of io.h. Server loop thread.
#ifndef HD_STORE_VFS_H
#define HD_STORE_VFS_H

#define HD_STORE_VFS "hearth"

// Registers the VFS, once. An SQLite result code.
int hd_store_vfs_register(void);

#endif
