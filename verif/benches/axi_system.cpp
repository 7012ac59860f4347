// The driver in C on the accelerator's RTL: a processor that is this program, its memory behind the AXI4 port, registers
// behind the AXI4-Lite port, both with random waits. `model.h`, made by the test, names the model.
//
// system INPUTS OUTPUTS COUNT SEED: COUNT inferences; every other one by interrupts. Prints cycles.
#include "Vnpu.h"
#include "verilated.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>
extern "C" {
#include "lepton_model.h"
#include "model.h"
extern char __executable_start;
}

static VerilatedContext context;
static Vnpu top{&context};
static uint64_t cycles = 0;
static uint32_t state = 1;
alignas(16) static uint8_t arena[ARENA_BYTES];

static bool stalls() {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return (state >> 8 & 7) == 0;
}

[[noreturn]] static void fail(const char *what) {
    std::fprintf(stderr, "%s (cycle %llu)\n", what, (unsigned long long)cycles);
    std::exit(1);
}

// Addresses of the bus count from where the program begins; what is neither image nor arena is refused.
static uint32_t bus(const void *pointer) { return uint32_t((const char *)pointer - &__executable_start); }

static uint8_t *memory(uint32_t address, bool write) {
    uint32_t a = address - bus(arena), i = address - bus(MODEL.image);
    if (a < sizeof arena) return arena + a;
    return !write && i < MODEL.image_bytes ? const_cast<uint8_t *>(MODEL.image) + i : nullptr;
}

struct Burst { uint32_t address, left; uint64_t from; };
static std::deque<Burst> reads, writes;
static std::deque<uint64_t> answers;
static bool refused = false;

struct Seen { bool arready, awready, wready, rvalid, bvalid; uint32_t rdata, resp; };

// A cycle: what was driven is taken, the memory goes on. Returns what the control port showed.
static Seen tick() {
    top.aclk = 0;
    top.eval();
    Seen seen = {bool(top.s_axil_arready), bool(top.s_axil_awready), bool(top.s_axil_wready), bool(top.s_axil_rvalid),
                 bool(top.s_axil_bvalid), top.s_axil_rdata, uint32_t(top.s_axil_rresp | top.s_axil_bresp)};
    bool ar = top.m_axi_arvalid && top.m_axi_arready, aw = top.m_axi_awvalid && top.m_axi_awready;
    bool w = top.m_axi_wvalid && top.m_axi_wready, r = top.m_axi_rvalid && top.m_axi_rready;
    bool b = top.m_axi_bvalid && top.m_axi_bready;
    if (ar) reads.push_back({top.m_axi_araddr, top.m_axi_arlen + 1u, cycles + 20});
    if (aw) writes.push_back({top.m_axi_awaddr, top.m_axi_awlen + 1u, 0});
    if (w) {
        if (writes.empty()) fail("data without its burst");
        Burst &burst = writes.front();
        const uint8_t *data = (const uint8_t *)&top.m_axi_wdata;
        for (uint32_t k = 0; k < BEAT; k++) {
            if (!(top.m_axi_wstrb >> k & 1)) continue;
            uint8_t *place = memory(burst.address + k, true);
            if (place) *place = data[k];
            else refused = true;
        }
        burst.address += BEAT;
        if (bool(top.m_axi_wlast) != (--burst.left == 0)) fail("WLAST");
        if (burst.left == 0) {
            writes.pop_front();
            answers.push_back(cycles + 10);
        }
    }
    if (r) {
        reads.front().address += BEAT;
        if (--reads.front().left == 0) reads.pop_front();
    }
    if (b) answers.pop_front();
    top.aclk = 1;
    top.eval();
    cycles++;
    top.m_axi_arready = reads.size() < 8 && !stalls();
    top.m_axi_awready = writes.size() < 4 && !stalls();
    top.m_axi_wready = (!writes.empty() || aw) && !stalls();
    if (r || !top.m_axi_rvalid) {
        top.m_axi_rvalid = !reads.empty() && reads.front().from <= cycles && !stalls();
        if (top.m_axi_rvalid) {
            uint8_t beat[BEAT];
            top.m_axi_rresp = 0;
            for (uint32_t k = 0; k < BEAT; k++) {
                uint8_t *place = memory(reads.front().address + k, false);
                beat[k] = place ? *place : 0;
                if (!place) top.m_axi_rresp = 2;
            }
            std::memcpy(&top.m_axi_rdata, beat, BEAT);
            top.m_axi_rlast = reads.front().left == 1;
        }
    }
    if (b || !top.m_axi_bvalid) {
        top.m_axi_bvalid = !answers.empty() && answers.front() <= cycles;
        top.m_axi_bresp = refused ? 2 : 0;
    }
    return seen;
}

static uint32_t read(void *, uint32_t offset) {
    top.s_axil_araddr = offset;
    top.s_axil_arvalid = 1;
    while (!tick().arready) {}
    top.s_axil_arvalid = 0;
    top.s_axil_rready = 1;
    Seen seen;
    while (!(seen = tick()).rvalid) {}
    top.s_axil_rready = 0;
    if (seen.resp) fail("a register refused a read");
    return seen.rdata;
}

static void write(void *, uint32_t offset, uint32_t value) {
    top.s_axil_awaddr = offset;
    top.s_axil_wdata = value;
    top.s_axil_wstrb = 15;
    top.s_axil_awvalid = top.s_axil_wvalid = 1;
    while (!tick().awready) {}
    top.s_axil_awvalid = top.s_axil_wvalid = 0;
    top.s_axil_bready = 1;
    Seen seen;
    while (!(seen = tick()).bvalid) {}
    top.s_axil_bready = 0;
    if (seen.resp) fail("a register refused a write");
}

static uint32_t address(void *, const void *pointer) { return bus(pointer); }

static void idle(void *) {
    for (int k = 0; k < 100; k++) tick();
    if (cycles > 20000000) fail("no end");
}

static void ended(lepton *, lepton_result result, void *argument) { *(lepton_result *)argument = result; }

static void must(lepton_result result, const char *what) {
    if (result != LEPTON_OK) {
        std::fprintf(stderr, "%s: %s\n", what, lepton_text(result));
        std::exit(1);
    }
}

static std::vector<int8_t> contents(const char *path, size_t size) {
    std::vector<int8_t> data(size);
    std::FILE *file = std::fopen(path, "rb");
    if (!file || std::fread(data.data(), 1, size, file) != size) fail(path);
    std::fclose(file);
    return data;
}

int main(int argc, char **argv) {
    if (argc != 5) fail("system INPUTS OUTPUTS COUNT SEED");
    const size_t count = std::strtoul(argv[3], nullptr, 10);
    state = uint32_t(std::strtoul(argv[4], nullptr, 10)) | 1u;
    std::vector<int8_t> in = contents(argv[1], count * INPUT_SIZE), want = contents(argv[2], count * OUTPUT_SIZE);
    for (int k = 0; k < 4; k++) tick();
    top.aresetn = 1;
    tick();
    lepton_system system = {read, write, address, nullptr, nullptr, idle, nullptr};
    lepton device;
    must(lepton_open(&device, &system), "open");
    must(lepton_load(&device, &MODEL, arena, sizeof arena), "load");
    for (size_t k = 0; k < count; k++) {
        int8_t out[OUTPUT_SIZE];
        uint64_t before = cycles;
        if (k % 2 == 0) {
            must(RUN(&device, in.data() + k * INPUT_SIZE, out), "run");
        } else {
            lepton_result result = LEPTON_BUSY;
            must(lepton_set_input(&device, 0, in.data() + k * INPUT_SIZE, INPUT_SIZE), "input");
            must(lepton_start(&device, ended, &result), "start");
            while (result == LEPTON_BUSY) {
                while (!top.irq) idle(nullptr);
                lepton_step(&device);
                tick(), tick();
            }
            must(result, "run by interrupts");
            must(lepton_get_output(&device, 0, out, OUTPUT_SIZE), "output");
        }
        if (std::memcmp(out, want.data() + k * OUTPUT_SIZE, OUTPUT_SIZE)) fail("other bytes than expected");
        std::printf("inference %zu: %llu cycles\n", k, (unsigned long long)(cycles - before));
    }
    return 0;
}
