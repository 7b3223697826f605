// vcsim is govmomi's simulator of a vCenter or an ESXi host, with what a migration needs and it
// lacks: changed block tracking, tasks that take time, and faults on demand (see simulator/).
//
// It prints one line of JSON when it listens, and ends when its standard input does.
package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	root := flag.String("root", "", "directory of disks, of snapshots and of the control socket")
	esx := flag.Bool("esx", false, "be an ESXi host instead of a vCenter")
	user := flag.String("user", "administrator@vsphere.local", "who may log in")
	password := flag.String("password", "secret", "with which password")
	disks := flag.String("disks", "64M", "sizes of the first VM's disks")
	flag.Parse()
	log.SetFlags(0)

	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	} else {
		// Two hosts that share a datastore are enough to search in.
		model.Cluster, model.Host = 0, 2
	}
	defer model.Remove()
	check(model.Create())
	certificate, pemText := certificate()
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(*user, *password)}
	machines := begin(model.Service, *root, strings.Split(*disks, ","))
	server := model.Service.NewServer()
	defer server.Close()
	check(os.WriteFile(filepath.Join(*root, "ca.pem"), pemText, 0o644))

	der := certificate.Certificate[0]
	sha1sum, sha256sum := sha1.Sum(der), sha256.Sum256(der)
	check(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"address": server.URL.Host,
		"sha1":    pairs(sha1sum[:]),
		"sha256":  pairs(sha256sum[:]),
		"vms":     machines,
	}))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// certificate makes a self-signed one, as a host has that nobody gave another.
func certificate() (tls.Certificate, []byte) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	name := pkix.Name{CommonName: "vcsim"}
	template := x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               name,
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	check(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text
}

// pairs writes a thumbprint as VMware does.
func pairs(sum []byte) string {
	var out []string
	for _, b := range sum {
		out = append(out, fmt.Sprintf("%02X", b))
	}
	return strings.Join(out, ":")
}
