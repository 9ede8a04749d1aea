#include "backend/cuda/driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define CU_API_VERSION 13000

void cu_unload(cu_api *cu)
{
    if (cu->lib)
        dlclose(cu->lib);
    memset(cu, 0, sizeof *cu);
}

imp_status cu_load(cu_api *cu, imp_err *e)
{
    memset(cu, 0, sizeof *cu);
    cu->lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!cu->lib)
        return err_set(e, IMP_E_UNSUPPORTED, "cuda: no NVIDIA driver: %s", dlerror());
    typedef CUresult (*get_fn)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);
    get_fn get;
    void *sym = dlsym(cu->lib, "cuGetProcAddress_v2");
    memcpy(&get, &sym, sizeof get); /* ISO C has no cast from an object to a function pointer */
    CUresult r = CUDA_SUCCESS;
    int (*get_version)(int *) = NULL;
    void *vsym = dlsym(cu->lib, "cuDriverGetVersion");
    memcpy(&get_version, &vsym, sizeof get_version);
    if (get_version)
        get_version(&cu->version);
    if (!get) {
        imp_status s = err_set(e, IMP_E_UNSUPPORTED,
                               "cuda: the NVIDIA driver is too old: it speaks CUDA %d.%d, wanted 13.0 or newer",
                               cu->version / 1000, cu->version % 1000 / 10);
        cu_unload(cu);
        return s;
    }
#define CU_X(name)                                                                                                  \
    if (r == CUDA_SUCCESS) {                                                                                        \
        void *p = NULL;                                                                                             \
        CUdriverProcAddressQueryResult q = CU_GET_PROC_ADDRESS_SUCCESS;                                             \
        r = get("cu" #name, &p, CU_API_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, &q);                                   \
        if (r == CUDA_SUCCESS && (!p || q != CU_GET_PROC_ADDRESS_SUCCESS))                                          \
            r = CUDA_ERROR_NOT_FOUND;                                                                               \
        memcpy(&cu->name, &p, sizeof p);                                                                            \
    }
    CU_FUNCTIONS(CU_X)
#undef CU_X
    if (r == CUDA_SUCCESS)
        r = cu->Init(0);
    if (r == CUDA_SUCCESS)
        return IMP_OK;
    imp_status s;
    if (r == CUDA_ERROR_STUB_LIBRARY)
        s = err_set(e, IMP_E_UNSUPPORTED, "cuda: no NVIDIA driver: libcuda.so.1 is the toolkit's stub");
    else if (r == CUDA_ERROR_NOT_FOUND || (cu->version && cu->version < CU_API_VERSION))
        s = err_set(e, IMP_E_UNSUPPORTED,
                    "cuda: the NVIDIA driver is too old: it speaks CUDA %d.%d, wanted 13.0 or newer (driver 580)",
                    cu->version / 1000, cu->version % 1000 / 10);
    else if (r == CUDA_ERROR_NO_DEVICE)
        s = err_set(e, IMP_E_UNSUPPORTED, "cuda: the driver sees no GPU");
    else
        s = err_set(e, IMP_E_UNSUPPORTED, "cuda: the NVIDIA driver does not start (error %d)", (int)r);
    cu_unload(cu);
    return s;
}

imp_status cu_check(const cu_api *cu, CUresult r, imp_err *e, const char *doing, ...)
{
    if (r == CUDA_SUCCESS)
        return IMP_OK;
    char what[200];
    va_list ap;
    va_start(ap, doing);
    vsnprintf(what, sizeof what, doing, ap);
    va_end(ap);
    const char *name = NULL, *text = NULL;
    cu->GetErrorName(r, &name);
    cu->GetErrorString(r, &text);
    return err_set(e, r == CUDA_ERROR_OUT_OF_MEMORY ? IMP_E_NOMEM : IMP_E_DEVICE, "cuda: %s: %s (%s)", what,
                   text ? text : "unknown error", name ? name : "?");
}
