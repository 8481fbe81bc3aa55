// The index arithmetic of cuda/gemm_layout.cuh as C functions, for test_kernels_gemm_layout.py.
#include "gemm_layout.cuh"

using namespace pi0::gemm;

PI0_API int swizzled_at(int row_bytes, int row, int chunk) {
  return row_bytes == 64 ? swizzled<64>(row, chunk) : swizzled<128>(row, chunk);
}
PI0_API int step_offset(int offset, int steps) { return steps_further(offset, steps); }
PI0_API int row_of_a(int lane) { return a_row(lane); }
PI0_API int chunk_of_a(int lane) { return a_chunk(lane); }
PI0_API int row_of_weight(int lane) { return weight_row(lane); }
PI0_API int chunk_of_weight(int lane) { return weight_chunk(lane); }
PI0_API int row_of_sum(int lane, int half) { return sum_row(lane, half); }
PI0_API int first_of_run(int fragments, int lane) { return fragments == 8 ? run_column<8>(lane) : run_column<4>(lane); }
PI0_API int column_at(int fragments, int fragment, int at) {
  return fragments == 8 ? column_of<8>(fragment, at) : column_of<4>(fragment, at);
}
PI0_API int row_stored(int column) { return stored_row<8>(column); }
PI0_API int byte_at(int warp, int step, int lane) { return packed_at(warp, step, lane); }
PI0_API int column_packed(int warp, int lane, int fragment) { return packed_column(warp, lane, fragment); }
PI0_API int k_packed(int step, int lane, int byte) { return packed_k(step, lane, byte); }

PI0_API void stripe_of(int row_tiles, int column_tiles, int depth, int block, int blocks, int *begin_and_end) {
  const Stripe stripe = Work{row_tiles, column_tiles, depth}.stripe(block, blocks);
  begin_and_end[0] = stripe.begin, begin_and_end[1] = stripe.end;
}
PI0_API int block_with(int row_tiles, int column_tiles, int depth, int step, int blocks) {
  return Work{row_tiles, column_tiles, depth}.block_of(step, blocks);
}
// `count` positions from a step on, walked: row tile, column tile and step of each.
PI0_API void walk(int row_tiles, int column_tiles, int depth, int from, int count, int *positions) {
  const Work work{row_tiles, column_tiles, depth};
  Position position = Position::at(work, from);
  for (int i = 0; i < count; i++, position.advance(work))
    positions[3 * i] = position.row_tile, positions[3 * i + 1] = position.column_tile,
                  positions[3 * i + 2] = position.step;
}
PI0_API int slot_of(int block, int first) { return part_slot(block, first != 0); }
