// The accelerator under Verilator, with a C interface for ctypes (verilated.py, fpga/board_sim.py).
//
// Two kinds of top module `npu`: with byte streams `i` and `o`, and, with -DEXTERNAL, a burst read port that is answered
// from a buffer, or, with -DMEMORY=bytes of a beat, a memory port `memory` with the memory behind it; or, with -DUART, the pins of a board. With -DWAVES, and Verilator's --trace-fst or --trace-vcd, the
// signals can be recorded: a cycle is 10 ns (their unit is a picosecond).
// Verilator spells the second underscore of a port's name `_05F`.
#include "Vtop.h"
#include "verilated.h"
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#ifdef WAVES
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Trace = VerilatedFstC;
#else
#include "verilated_vcd_c.h"
using Trace = VerilatedVcdC;
#endif
#endif

// The model, its clock and its waveforms.
struct Clocked {
    VerilatedContext context;
    Vtop top;
    uint64_t cycles = 0;
#ifdef WAVES
    Trace trace;
    uint64_t time = 0;
    bool recording = false;
    Clocked() : top(&context) { context.traceEverOn(true); }
    ~Clocked() { if (recording) trace.close(); }

    bool record(const char *path) {
        if (recording) return false;
        top.trace(&trace, 99);
        trace.open(path);
        return recording = trace.isOpen();
    }
    void dump() {
        if (recording) trace.dump(time);
        time += 5000;
    }
#else
    Clocked() : top(&context) {}
    void dump() {}
#endif

    void half(int clk) { top.clk = clk; top.eval(); }
};

#ifdef UART

// A UART on the pins of the board top. Cycles a bit: `divisor`; pulses of `clk` in a cycle: `pulses`.
struct Sim : Clocked {
    uint32_t divisor, pulses;
    uint32_t out = 1, out_bits = 0, out_wait = 0;  // to rx
    uint32_t in = 0, in_bits = 0, in_wait = 0;     // from tx
    uint64_t quiet = 0;                            // cycles since tx ended a byte
    Sim(uint32_t d, uint32_t p) : divisor(d), pulses(p) {}

    void tick() {
        for (uint32_t k = 0; k < pulses; k++) {
            half(1);
            dump();
            half(0);
            dump();
        }
        cycles++;
    }
};

#else

#ifdef MEMORY

// The memory behind the port: bursts are served one after the other, in the order in which they are taken.
struct Memory {
    struct Burst { bool write; uint32_t address, left; uint64_t from; };  // from: cycle of its first beat
    static const size_t places = 16;  // bursts under way
    uint8_t *bytes = nullptr;
    uint64_t size = 0;
    uint32_t latency = 30, interval = 1;  // cycles from a burst taken to its first beat read; from beat to beat
    uint32_t every = 0, busy = 0;         // of so many cycles the last so many are refresh: nothing goes on
    Burst queue[places];
    size_t first = 0, held = 0, writes = 0;
    uint64_t next = 0;  // cycle of the next beat, of whatever burst
    uint64_t reads_done = 0, writes_done = 0, taken = 0;  // beats, bursts

    Burst &head() { return queue[first % places]; }
    void pop() { writes -= head().write; first++; held--; }
    uint8_t *at(uint32_t address) {
        return uint64_t(address) + MEMORY <= size ? bytes + address : nullptr;
    }
    ~Memory() { free(bytes); }
};

#endif

struct Sim : Clocked {
    std::vector<uint8_t> memory;  // external memory
    uint32_t latency = 8, interval = 1;  // cycles to the first beat; cycles from one beat to the next
    uint32_t address = 0, left = 0, wait = 0;
    uint32_t chance[5] = {};  // in 256: that a stream does not go on in a cycle: host, reply, request, data (written)
#ifdef MEMORY
    Memory port;
#endif
    uint32_t random = 1;
    bool offered = false;  // a host byte is offered: it stays until it is taken

    bool stalls(int stream) {
        if (!chance[stream]) return false;
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        return (random >> 8 & 255) < chance[stream];
    }

    // One clock cycle. The inputs are set and the clock is low and evaluated when it starts, and low when it ends.
    void tick() {
#ifdef EXTERNAL
        bool taken = top.x_req___05Fvalid && top.x_req___05Fready;
        uint32_t req_address = top.x_req___05Fpayload, req_length = top.x_req___05Fpayload >> 32;
        bool beat = top.x_data___05Fvalid && top.x_data___05Fready;
#endif
#ifdef MEMORY
        bool asked = top.memory___05Fa___05Fvalid && top.memory___05Fa___05Fready;
        bool wrote = top.memory___05Fw___05Fvalid && top.memory___05Fw___05Fready;
        bool read = top.memory___05Fr___05Fvalid && top.memory___05Fr___05Fready;
        uint64_t burst = top.memory___05Fa___05Fpayload;
        if (wrote) write_beat();
#endif
        dump();
        half(1);
        dump();
        top.clk = 0;
#ifdef EXTERNAL
        if (beat) { address += 1; left -= 1; wait = interval - 1; }
        else if (wait) wait -= 1;
        if (taken) { address = req_address; left = req_length; wait = latency; }
        top.x_req___05Fready = left == 0 && !stalls(2);
        top.x_data___05Fvalid = left != 0 && wait == 0 && !stalls(3);
        top.x_data___05Fpayload = address < memory.size() ? memory[address] : 0;
#endif
        cycles += 1;
#ifdef MEMORY
        answer(asked, burst, wrote, read);
#endif
    }

#ifdef MEMORY
    bool failed = false;  // a beat outside the memory

    void write_beat() {
        uint8_t raw[sizeof(top.memory___05Fw___05Fpayload) + 4] = {};
        memcpy(raw, &top.memory___05Fw___05Fpayload, sizeof(top.memory___05Fw___05Fpayload));
        uint32_t mask = raw[MEMORY] | raw[MEMORY + 1] << 8;
        uint8_t *to = port.at(port.head().address);
        if (!to) { failed |= (mask & ((1u << MEMORY) - 1)) != 0; return; }
        for (int k = 0; k < MEMORY; k++) if (mask >> k & 1) to[k] = raw[k];
    }

    // What the machine did in the cycle before; then what the memory shows in this one.
    void answer(bool asked, uint64_t burst, bool wrote, bool read) {
        Memory &p = port;
        if (wrote || read) {
            Memory::Burst &b = p.head();
            b.address += MEMORY;
            p.next = cycles - 1 + p.interval;
            (wrote ? p.writes_done : p.reads_done)++;
            if (!--b.left) p.pop();
        }
        if (asked) {
            bool write = burst & 1;
            uint64_t from = write ? cycles : cycles - 1 + p.latency;
            p.queue[(p.first + p.held++) % p.places] = {write, uint32_t(burst >> 1), uint32_t(burst >> 33 & 255) + 1, from};
            p.writes += write;
            p.taken++;
        }
        bool rest = p.every && cycles % p.every >= p.every - p.busy;
        bool go = p.held && !rest && cycles >= p.next && cycles >= p.head().from;
        bool shown = top.memory___05Fr___05Fvalid && !read;  // stays until it is taken
        bool give = shown || (go && !p.head().write && !stalls(3));
        top.memory___05Fa___05Fready = p.held < p.places && !rest && !stalls(2);
        top.memory___05Fw___05Fready = go && p.head().write && !stalls(4);
        top.memory___05Fr___05Fvalid = give;
        if (give && !shown) {
            uint8_t *from = p.at(p.head().address);
            static const uint8_t zero[MEMORY] = {};
            memcpy(&top.memory___05Fr___05Fpayload, from ? from : zero, MEMORY);
            failed |= !from;
        }
        top.memory___05Fidle = !p.writes;
        top.memory___05Ferror = failed;
        failed = false;
    }

    void forget() {
        port.held = port.writes = 0;
        top.memory___05Fa___05Fready = top.memory___05Fw___05Fready = top.memory___05Fr___05Fvalid = 0;
        top.memory___05Fidle = 1;
        top.memory___05Ferror = failed = 0;
    }
#endif
};

#endif

extern "C" {
void sim_destroy(Sim *s) { s->top.final(); delete s; }
uint64_t sim_cycles(Sim *s) { return s->cycles; }

// Record from now on into a file; 0 if that is not possible.
int sim_waves(Sim *s, const char *path) {
#ifdef WAVES
    return s->record(path);
#else
    return 0;
#endif
}

#ifdef UART

Sim *sim_create(uint32_t divisor, uint32_t pulses) {
    Sim *s = new Sim(divisor, pulses);
    s->top.rx = 1;
    s->top.rst = 0;
    s->half(0);
    return s;
}
uint32_t sim_leds(Sim *s) { return s->top.leds; }

// The reset button: a few cycles. What is on the wires goes on.
void sim_reset(Sim *s) {
    s->top.rst = 1;
    for (int i = 0; i < 4; i++) s->tick();
    s->top.rst = 0;
    s->in_bits = 0;
}

// Run for `cycles`; stops earlier when all bytes are sent and tx has given bytes and then been idle for a while.
// counts: bytes sent, bytes given.
void sim_run(Sim *s, const uint8_t *data, uint64_t n, uint8_t *got, uint64_t cap, uint64_t cycles, uint64_t *counts) {
    uint64_t sent = 0, given = 0;
    while (cycles--) {
        if (s->out_wait) s->out_wait--;
        else if (s->out_bits) {
            s->top.rx = s->out & 1;
            s->out >>= 1;
            s->out_bits--;
            s->out_wait = s->divisor - 1;
        }
        if (!s->out_bits && !s->out_wait && sent < n) {
            s->out = data[sent++] << 1 | 0x200;
            s->out_bits = 10;
        }
        s->tick();
        if (s->in_bits == 0) {
            s->quiet++;
            if (!s->top.tx) { s->in_bits = 10; s->in_wait = s->divisor / 2; s->in = 0; s->quiet = 0; }
        } else if (s->in_wait) s->in_wait--;
        else {
            s->in = s->in >> 1 | (uint32_t)s->top.tx << 9;
            s->in_wait = s->divisor - 1;
            if (--s->in_bits == 0) {
                if ((s->in & 0x201) == 0x200 && given < cap) got[given++] = s->in >> 1;
                s->quiet = 0;
            }
        }
        if (sent == n && given && s->quiet > 12 * s->divisor) break;
    }
    counts[0] = sent;
    counts[1] = given;
}

#else

Sim *sim_create() {
    Sim *s = new Sim;
    s->top.i___05Fvalid = 0;
    s->top.i___05Fpayload = 0;
    s->top.o___05Fready = 0;
#ifdef EXTERNAL
    s->top.x_req___05Fready = 1;
    s->top.x_data___05Fvalid = 0;
    s->top.x_data___05Fpayload = 0;
#endif
#ifdef MEMORY
    s->forget();
#endif
    s->top.rst = 1;
    s->half(0);
    for (int i = 0; i < 4; i++) { s->half(1); s->half(0); }
    s->top.rst = 0;
    s->half(0);
    return s;
}

void sim_memory(Sim *s, const uint8_t *data, uint64_t n, uint32_t latency, uint32_t interval) {
    s->memory.assign(data, data + n);
    s->latency = latency;
    s->interval = interval ? interval : 1;
}

#ifdef MEMORY
// A memory of so many bytes, all zero (pages that nobody touches cost nothing); returns the first.
uint8_t *sim_port(Sim *s, uint64_t bytes) {
    free(s->port.bytes);
    s->port.bytes = static_cast<uint8_t *>(calloc(bytes, 1));
    s->port.size = s->port.bytes ? bytes : 0;
    return s->port.bytes;
}

// How fast it is, and how often it refreshes.
void sim_pace(Sim *s, uint32_t latency, uint32_t interval, uint32_t every, uint32_t busy) {
    s->port.latency = latency ? latency : 1;
    s->port.interval = interval ? interval : 1;
    s->port.every = every;
    s->port.busy = busy;
}

// Bursts taken, beats read, beats written.
void sim_traffic(Sim *s, uint64_t *counts) {
    counts[0] = s->port.taken;
    counts[1] = s->port.reads_done;
    counts[2] = s->port.writes_done;
}
#endif

void sim_stalls(Sim *s, uint32_t seed, uint32_t host, uint32_t reply, uint32_t request, uint32_t data,
                uint32_t written) {
    s->random = seed | 1;
    s->chance[0] = host;
    s->chance[1] = reply;
    s->chance[2] = request;
    s->chance[3] = data;
    s->chance[4] = written;
}

void sim_reset(Sim *s, uint32_t cycles) {
    s->top.rst = 1;
    s->top.eval();
    while (cycles--) s->tick();
    s->top.rst = 0;
    s->left = s->wait = 0;
#ifdef EXTERNAL
    s->top.x_req___05Fready = 0;
    s->top.x_data___05Fvalid = 0;
#endif
#ifdef MEMORY
    s->forget();
#endif
    s->top.eval();
}

// Run until all n_in bytes are taken and `want` bytes have come, or for max_cycles.
// counts: bytes taken, bytes given. Returns the cycles run.
uint64_t sim_step(Sim *s, const uint8_t *in, uint64_t n_in, uint8_t *out, uint64_t cap, uint64_t want,
                  uint64_t max_cycles, uint64_t *counts) {
    uint64_t taken = 0, given = 0, start = s->cycles;
    Vtop &top = s->top;
    if (want > cap) want = cap;
    while ((taken < n_in || given < want) && s->cycles - start < max_cycles) {
        s->offered = taken < n_in && (s->offered || !s->stalls(0));
        top.i___05Fvalid = s->offered;
        if (taken < n_in) top.i___05Fpayload = in[taken];
        top.o___05Fready = given < cap && !s->stalls(1);
        top.eval();
        bool i = top.i___05Fvalid && top.i___05Fready, o = top.o___05Fvalid && top.o___05Fready;
        uint8_t byte = top.o___05Fpayload;
        s->tick();
        if (i) taken++, s->offered = false;
        if (o) out[given++] = byte;
    }
    top.i___05Fvalid = 0;
    s->offered = false;
    top.o___05Fready = 0;
    top.eval();
    counts[0] = taken;
    counts[1] = given;
    return s->cycles - start;
}

#endif
}
