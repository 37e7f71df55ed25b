#include "format/format.h"
vd_error vd_format_find(struct vd_file *file, uint32_t device_id, const struct vd_format **out){(void)file;(void)device_id;*out=&vd_vhdx_format;return 0;}
