// incumbent is a model of the copy loop of CDI's importer, for benches/vmware: nbdkit with the filters
// that it starts, one connection, one request in flight, reads of 2 MiB, a fresh buffer for each extent
// or changed area, writes through the page cache, one fsync at the end. In Go, as the original is.
//
//	incumbent TARGET SIZE [AREAS] -- NBDKIT WORDS...
//
// AREAS is a file of "START LENGTH" lines: only those are copied; without it all of the disk. It prints
// the seconds from the first request to the end of the fsync.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	maxRead   = 2 << 20
	maxStatus = 2 << 30
	// Shorter ranges are not asked about: they are data.
	minStatus = 1 << 20

	cmdRead, cmdDisconnect, cmdStatus = 0, 2, 7
	flagReqOne                        = 1 << 3
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

type client struct {
	conn   net.Conn
	in     *bufio.Reader
	cookie uint64
}

type extent struct {
	length uint32
	zero   bool
}

func send(w io.Writer, parts ...interface{}) {
	for _, part := range parts {
		check(binary.Write(w, binary.BigEndian, part))
	}
}

func (c *client) option(number uint32, data []byte) {
	out := bufio.NewWriter(c.conn)
	send(out, []byte("IHAVEOPT"), number, uint32(len(data)), data)
	check(out.Flush())
	for {
		var head struct {
			Magic              uint64
			Option, Kind, Size uint32
		}
		check(binary.Read(c.in, binary.BigEndian, &head))
		_, err := io.CopyN(io.Discard, c.in, int64(head.Size))
		check(err)
		if head.Kind>>31 != 0 {
			log.Fatalf("option %d is refused: %x", number, head.Kind)
		}
		if head.Kind == 1 {
			return
		}
	}
}

func dial(socket string) *client {
	var conn net.Conn
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(end) {
			log.Fatal(err)
		}
	}
	c := &client{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	var greeting [18]byte
	_, err := io.ReadFull(c.in, greeting[:])
	check(err)
	send(conn, uint32(3))
	c.option(8, nil)
	context := []byte("base:allocation")
	data := binary.BigEndian.AppendUint32(nil, 0)
	data = binary.BigEndian.AppendUint32(data, 1)
	data = binary.BigEndian.AppendUint32(data, uint32(len(context)))
	c.option(10, append(data, context...))
	c.option(7, make([]byte, 6))
	return c
}

func (c *client) request(command, flags uint16, offset uint64, length uint32) {
	c.cookie++
	var head [28]byte
	binary.BigEndian.PutUint32(head[0:], 0x25609513)
	binary.BigEndian.PutUint16(head[4:], flags)
	binary.BigEndian.PutUint16(head[6:], command)
	binary.BigEndian.PutUint64(head[8:], c.cookie)
	binary.BigEndian.PutUint64(head[16:], offset)
	binary.BigEndian.PutUint32(head[24:], length)
	_, err := c.conn.Write(head[:])
	check(err)
}

// replies hands over the chunks of one structured reply.
func (c *client) replies(chunk func(kind uint16, length uint32)) {
	for {
		var head [20]byte
		_, err := io.ReadFull(c.in, head[:])
		check(err)
		flags, kind := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
		length := binary.BigEndian.Uint32(head[16:])
		if kind>>15 != 0 {
			log.Fatalf("the server answers with an error")
		}
		chunk(kind, length)
		if flags&1 != 0 {
			return
		}
	}
}

func (c *client) read(buffer []byte, offset uint64) {
	c.request(cmdRead, 0, offset, uint32(len(buffer)))
	c.replies(func(kind uint16, length uint32) {
		if kind == 0 {
			return
		}
		var at [8]byte
		_, err := io.ReadFull(c.in, at[:])
		check(err)
		start := binary.BigEndian.Uint64(at[:]) - offset
		if kind == 2 {
			var hole [4]byte
			_, err = io.ReadFull(c.in, hole[:])
			check(err)
			part := buffer[start : start+uint64(binary.BigEndian.Uint32(hole[:]))]
			for i := range part {
				part[i] = 0
			}
			return
		}
		_, err = io.ReadFull(c.in, buffer[start:start+uint64(length)-8])
		check(err)
	})
}

func (c *client) status(offset uint64, length uint32) (found extent) {
	c.request(cmdStatus, flagReqOne, offset, length)
	c.replies(func(kind uint16, length uint32) {
		body := make([]byte, length)
		_, err := io.ReadFull(c.in, body)
		check(err)
		if kind == 5 {
			found = extent{binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint32(body[8:]) != 0}
		}
	})
	return found
}

// extents of a range of at most 2 GiB; neighbours of one kind are merged.
func (c *client) extents(offset, length uint64) (all []extent) {
	if length < minStatus {
		return []extent{{uint32(length), false}}
	}
	for end := offset + length; offset < end; {
		next := c.status(offset, uint32(end-offset))
		if next.length == 0 {
			return append(all, extent{uint32(end - offset), false})
		}
		if last := len(all) - 1; last >= 0 && all[last].zero == next.zero {
			all[last].length += next.length
		} else {
			all = append(all, next)
		}
		offset += uint64(next.length)
	}
	return all
}

func (c *client) copyRange(target *os.File, offset, length uint64) {
	for end := offset + length; offset < end; {
		window := end - offset
		if window > maxStatus {
			window = maxStatus
		}
		for _, extent := range c.extents(offset, window) {
			if extent.zero {
				const punch = 2 | 1
				check(syscall.Fallocate(int(target.Fd()), punch, int64(offset), int64(extent.length)))
				offset += uint64(extent.length)
				continue
			}
			// As the original: as long as the longest read, whatever there is to be read.
			buffer := make([]byte, maxRead)
			for left := uint64(extent.length); left > 0; {
				if left < uint64(len(buffer)) {
					buffer = make([]byte, left)
				}
				c.read(buffer, offset)
				_, err := target.WriteAt(buffer, int64(offset))
				check(err)
				offset, left = offset+uint64(len(buffer)), left-uint64(len(buffer))
			}
		}
	}
}

func areas(path string, each func(start, length uint64)) {
	file, err := os.Open(path)
	check(err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var start, length uint64
		_, err := fmt.Sscan(lines.Text(), &start, &length)
		check(err)
		each(start, length)
	}
}

func main() {
	log.SetFlags(0)
	split := 0
	for i, word := range os.Args {
		if word == "--" {
			split = i
			break
		}
	}
	if split < 3 {
		log.Fatal("usage: incumbent TARGET SIZE [AREAS] -- NBDKIT WORDS...")
	}
	size, err := strconv.ParseUint(os.Args[2], 10, 64)
	check(err)
	dir, err := os.MkdirTemp("", "incumbent")
	check(err)
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "nbd.sock")
	words := append([]string{"--foreground", "--readonly", "--exit-with-parent", "-U", socket,
		"--filter=retry", "--filter=cacheextents"}, os.Args[split+2:]...)
	server := exec.Command(os.Args[split+1], words...)
	server.Stderr = os.Stderr
	check(server.Start())
	client := dial(socket)
	target, err := os.OpenFile(os.Args[1], os.O_WRONLY, 0)
	check(err)

	began := time.Now()
	if split > 3 {
		areas(os.Args[3], func(start, length uint64) { client.copyRange(target, start, length) })
	} else {
		client.copyRange(target, 0, size)
	}
	check(target.Sync())
	fmt.Println(time.Since(began).Seconds())
	client.request(cmdDisconnect, 0, 0, 0)
	client.conn.Close()
	check(server.Process.Signal(os.Interrupt))
	_ = server.Wait()
}
