#include "text/tok_impl.h"
imp_status tok_load_folder(tok *t, modelfile *mf, imp_err *e) { (void)t; return err_set(e, IMP_E_UNSUPPORTED, "%s: tokenizer.json is not read yet", mf_path(mf)); }
