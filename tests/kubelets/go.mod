// The root of the driver's module. It is never read: each version's own go.mod is named with -modfile (build.py).
module kubelets
