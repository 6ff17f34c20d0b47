package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/layerctl/layerctl/image/reference"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	cert, key, _ := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "a test's authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign})
	a.pem = cert
	block, _ := pem.Decode([]byte(cert))
	a.cert, _ = x509.ParseCertificate(block.Bytes)
	block, _ = pem.Decode([]byte(key))
	a.key, _ = x509.ParseECPrivateKey(block.Bytes)
	return a
}

// sign returns a certificate and its key in PEM, signed by the authority, or by itself where there is none yet.
func (a *authority) sign(c *x509.Certificate) (cert, key string, pair tls.Certificate) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	b, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: b}))
	if pair, err = tls.X509KeyPair([]byte(cert), []byte(key)); err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pair
}

func (a *authority) forServer() tls.Certificate {
	_, _, pair := a.sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return pair
}

// serveTLS starts a server that holds cert, and asks for a certificate of clients' where there is one.
func serveTLS(t *testing.T, cert tls.Certificate, clients *authority, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	if clients != nil {
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.TLS.ClientCAs.AddCert(clients.cert)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func hostOf(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "https://") }

func pull(t *testing.T, host string) error {
	t.Helper()
	ref, err := reference.Parse(host + "/a/b")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(ref, Options{})
	if err != nil {
		return err
	}
	r.sources[0].wait = time.Millisecond
	_, err = r.Manifest(context.Background(), "latest")
	return err
}

func TestPrivateAuthorities(t *testing.T) {
	home := lonely(t)
	ca := newAuthority(t)
	manifest := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"layers": []}`) }
	reg := serveTLS(t, ca.forServer(), nil, manifest)
	certs := filepath.Join(home, ".config/containers/certs.d", hostOf(reg))

	err := pull(t, hostOf(reg))
	says(t, err, ErrUnavailable, hostOf(reg), "authority that is not known")
	if h, ok := err.(interface{ Hint() string }); !ok || !strings.Contains(h.Hint(), "certs.d/"+hostOf(reg)+"/ca.crt") {
		t.Errorf("the hint of %v", err)
	}
	write(t, certs+"/ca.crt", newAuthority(t).pem, 0o600)
	says(t, pull(t, hostOf(reg)), ErrUnavailable, "authority that is not known")
	write(t, certs+"/ca.crt", ca.pem, 0o600)
	if err := pull(t, hostOf(reg)); err != nil {
		t.Error(err)
	}
	// Of another host it is not believed.
	other := serveTLS(t, ca.forServer(), nil, manifest)
	says(t, pull(t, hostOf(other)), ErrUnavailable, hostOf(other), "authority")
	// Insecure means anybody.
	write(t, home+"/conf", "[[registry]]\nlocation = '"+hostOf(other)+"'\ninsecure = true", 0o600)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", home+"/conf")
	if err := pull(t, hostOf(other)); err != nil {
		t.Error(err)
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", os.DevNull)

	_, _, old := ca.sign(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	_, _, foreign := ca.sign(&x509.Certificate{DNSNames: []string{"registry.example"}})
	for name, cert := range map[string]tls.Certificate{"expired": old, "another host's": foreign} {
		s := serveTLS(t, cert, nil, manifest)
		write(t, filepath.Join(home, ".config/containers/certs.d", hostOf(s), "ca.crt"), ca.pem, 0o600)
		err := pull(t, hostOf(s))
		says(t, err, ErrUnavailable, hostOf(s), "its certificate is not valid")
		t.Logf("%s: %v", name, err)
	}

	for name, c := range map[string]struct{ file, content, text string }{
		"no certificate":        {"ca.crt", "hello", "no certificate in PEM"},
		"a key alone":           {"x.key", "hello", "x.cert beside it"},
		"a certificate alone":   {"x.cert", ca.pem, "x.key beside it"},
		"nonsense for a client": {"x.cert", "hello", "x.cert"},
	} {
		os.RemoveAll(certs)
		write(t, filepath.Join(certs, c.file), c.content, 0o600)
		if name == "nonsense for a client" {
			write(t, filepath.Join(certs, "x.key"), c.content, 0o600)
		}
		says(t, pull(t, hostOf(reg)), ErrConfig, hostOf(reg), c.text)
	}
}

// A certificate of ours is shown to the host that it lies beside, and to nobody else; but the host's authority may vouch for its token
// server and its storage, too.
func TestClientCertificates(t *testing.T) {
	home := lonely(t)
	ca := newAuthority(t)
	var shown []int
	storage := serveTLS(t, ca.forServer(), nil, func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, len(r.TLS.PeerCertificates))
		io.WriteString(w, `{"layers": []}`)
	})
	storage.TLS.ClientAuth = tls.RequestClientCert
	reg := serveTLS(t, ca.forServer(), ca, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, storage.URL+"/x", http.StatusTemporaryRedirect)
	})
	certs := filepath.Join(home, ".config/containers/certs.d", hostOf(reg))
	write(t, certs+"/ca.crt", ca.pem, 0o600)
	err := pull(t, hostOf(reg))
	says(t, err, ErrUnavailable, hostOf(reg), "refused the TLS connection")
	if h, ok := err.(interface{ Hint() string }); !ok || !strings.Contains(h.Hint(), "client.cert") {
		t.Errorf("the hint of %v", err)
	}
	cert, key, _ := ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "me"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	write(t, certs+"/client.cert", cert, 0o600)
	write(t, certs+"/client.key", key, 0o600)
	if err := pull(t, hostOf(reg)); err != nil {
		t.Error(err)
	}
	if len(shown) != 1 || shown[0] != 0 {
		t.Errorf("the storage was shown %v certificates", shown)
	}
}

func TestPlainHTTPElsewhere(t *testing.T) {
	lonely(t)
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"layers": []}`) })
	_, port, err := net.SplitHostPort(reg.host())
	if err != nil {
		t.Fatal(err)
	}
	if err := pull(t, "localhost:"+port); err != nil {
		t.Errorf("on loopback: %v", err)
	}
	ref := reference.Ref{Registry: "registry.example:" + port, Repository: "a", Tag: "latest"}
	for _, plain := range []bool{false, true} {
		r, err := Open(ref, Options{PlainHTTP: plain})
		if err != nil {
			t.Fatal(err)
		}
		// The name is this server's.
		tr, err := r.sources[0].http.Transport.(*transport).to(ref.Registry)
		if err != nil {
			t.Fatal(err)
		}
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, reg.host())
		}
		_, err = r.Manifest(context.Background(), "latest")
		if plain && err != nil {
			t.Errorf("with plain HTTP: %v", err)
		}
		if !plain {
			says(t, err, ErrUnavailable, ref.Registry+" does not speak TLS")
			if h, ok := err.(interface{ Hint() string }); !ok || !strings.Contains(h.Hint(), "--plain-http") {
				t.Errorf("the hint of %v", err)
			}
		}
	}
}

// Over HTTP/2 a cut and a stall are of one stream, and look different; they are taken up again like any other.
func TestCutStreams(t *testing.T) {
	home := lonely(t)
	t.Setenv("LAYERCTL_STALL_TIMEOUT", "700ms")
	ca := newAuthority(t)
	var n atomic.Int32
	reg := serveTLS(t, ca.forServer(), nil, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("it is %s", r.Proto)
		}
		switch n.Add(1) {
		case 1: // before the answer
			panic(http.ErrAbortHandler)
		case 2:
			cutting(20000, true)(w, r)
		case 3:
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 20000-%d/%d", len(someBlob)-1, len(someBlob)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(someBlob[20000:30000])
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			cutting(len(someBlob), true)(w, r)
		}
	})
	write(t, filepath.Join(home, ".config/containers/certs.d", hostOf(reg), "ca.crt"), ca.pem, 0o600)
	ref, err := reference.Parse(hostOf(reg) + "/a/b")
	if err != nil {
		t.Fatal(err)
	}
	said := &notices{}
	r, err := Open(ref, Options{Notice: said.add})
	if err != nil {
		t.Fatal(err)
	}
	r.sources[0].wait = 4 * time.Millisecond
	if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, text := range []string{"after 20000 of ", "after 30000 of ", "nothing came for too long"} {
		if !strings.Contains(said.String(), text) {
			t.Errorf("it does not say %q: %s", text, said)
		}
	}
}

// Whoever sends while the other side refuses may see the connection reset and never the alert that says why: the reason is asked for.
func TestRefusedWhileSending(t *testing.T) {
	home := lonely(t)
	ca := newAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write(t, filepath.Join(home, ".config/containers/certs.d", l.Addr().String(), "ca.crt"), ca.pem, 0o600)
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conf := &tls.Config{Certificates: []tls.Certificate{ca.forServer()}, NextProtos: []string{"h2", "http/1.1"}}
			if n%2 == 0 { // the alert is lost
				tls.Server(c, conf).Handshake()
				c.(*net.TCPConn).SetLinger(0)
			} else {
				conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
				tls.Server(c, conf).Handshake()
			}
			c.Close()
		}
	}()
	says(t, pull(t, l.Addr().String()), ErrUnavailable, l.Addr().String(), "refused the TLS connection", "certificate required")
}
