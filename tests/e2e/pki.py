"""Certificates and kubeconfig files, of one cluster that lives for minutes."""

import subprocess
from pathlib import Path

SERVER = "https://127.0.0.1:6443"
CLIENT = "extendedKeyUsage=clientAuth"
USERS = {  # kubeconfig's name: who that is
    "admin": "/O=system:masters/CN=admin",
    "kubelet": "/O=system:nodes/CN=system:node:{node}",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
}


def write(folder: Path, *, node: str, address: str) -> None:
    """Write an authority, a certificate for each component, and a kubeconfig for each user of the API."""
    folder.mkdir()
    _openssl(folder, "ecparam -name prime256v1 -genkey -noout -out ca.key")
    ca = "req -x509 -new -key ca.key -subj /CN=e2e-ca -days 2 -out ca.crt -addext keyUsage=critical,keyCertSign,cRLSign"
    _openssl(folder, ca)
    names = "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost"
    _certificate(folder, "apiserver", "/CN=kube-apiserver", _server(f"{names},IP:127.0.0.1,IP:{address},IP:10.96.0.1"))
    serving = f"/O=system:nodes/CN=system:node:{node}"
    _certificate(folder, "kubelet-serving", serving, _server(f"DNS:{node},IP:{address},IP:127.0.0.1"))
    _certificate(folder, "kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client", CLIENT)
    for user, subject in USERS.items():
        _certificate(folder, user, subject.format(node=node), CLIENT)
        (folder / f"{user}.conf").write_text(_kubeconfig(folder, user))
    _openssl(folder, "genrsa -out sa.key 2048")
    _openssl(folder, "rsa -in sa.key -pubout -out sa.pub")


def _server(names: str) -> str:
    return f"extendedKeyUsage=serverAuth\nsubjectAltName={names}"


def _certificate(folder: Path, name: str, subject: str, extensions: str) -> None:
    (folder / f"{name}.ext").write_text(extensions)
    _openssl(folder, f"ecparam -name prime256v1 -genkey -noout -out {name}.key")
    _openssl(folder, f"req -new -key {name}.key -out {name}.csr -subj {subject}")
    sign = (
        f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out {name}.crt -extfile {name}.ext"
    )
    _openssl(folder, sign)


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)


def _kubeconfig(folder: Path, user: str) -> str:
    return f"""apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{SERVER}", certificate-authority: {folder}/ca.crt}}}}]
users: [{{name: u, user: {{client-certificate: {folder}/{user}.crt, client-key: {folder}/{user}.key}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""
