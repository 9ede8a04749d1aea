/* driver: the CUDA driver API, opened with dlopen and bound by name and version; nothing links against it.
 * A cu_api is owned by the backend that opened it; its functions may be called from any thread that made the context
 * current. Failures name what is missing: no driver, a stub, a driver too old. */
#ifndef IMP_CUDA_DRIVER_H
#define IMP_CUDA_DRIVER_H

#include <cuda.h>

#include "base/status.h"

#define CU_FUNCTIONS(X)                                                                                              \
    X(Init) X(DriverGetVersion) X(DeviceGet) X(DeviceGetCount) X(DeviceGetName) X(DeviceTotalMem)                    \
    X(DeviceGetAttribute) X(DevicePrimaryCtxRetain) X(DevicePrimaryCtxRelease) X(CtxSetCurrent) X(MemGetInfo)        \
    X(MemAlloc) X(MemFree) X(MemAllocHost) X(MemFreeHost) X(MemcpyHtoDAsync) X(MemcpyDtoHAsync) X(MemcpyDtoDAsync)   \
    X(MemsetD8Async) X(StreamCreate) X(StreamDestroy) X(StreamSynchronize) X(StreamWaitEvent) X(EventCreate)         \
    X(EventRecord) X(EventSynchronize) X(EventElapsedTime) X(EventDestroy) X(LibraryLoadData) X(LibraryUnload)       \
    X(LibraryGetKernelCount) X(LibraryEnumerateKernels) X(KernelGetName) X(KernelGetFunction) X(FuncSetAttribute)    \
    X(FuncGetAttribute) X(OccupancyMaxActiveBlocksPerMultiprocessor) X(LaunchKernelEx) X(LaunchHostFunc)             \
    X(StreamBeginCapture) X(StreamEndCapture) X(GraphInstantiateWithFlags)                                           \
    X(GraphLaunch) X(GraphExecDestroy) X(GraphDestroy) X(TensorMapEncodeTiled) X(MemAddressReserve)                  \
    X(MemAddressFree) X(MemCreate) X(MemRelease) X(MemMap) X(MemUnmap) X(MemSetAccess)                               \
    X(MemGetAllocationGranularity) X(GetErrorName) X(GetErrorString)

typedef struct cu_api {
    void *lib;
    int version; /* of the driver: 13000 = 13.0 */
#define CU_X(name) __typeof__(cu##name) *name;
    CU_FUNCTIONS(CU_X)
#undef CU_X
} cu_api;

imp_status cu_load(cu_api *cu, imp_err *e);
void cu_unload(cu_api *cu);
/* Status of a driver call: IMP_OK, IMP_E_NOMEM, or IMP_E_DEVICE; the message says what was being done and the driver's
 * words. */
imp_status cu_check(const cu_api *cu, CUresult r, imp_err *e, const char *doing, ...)
    __attribute__((format(printf, 4, 5)));

#endif
