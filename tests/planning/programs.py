"""Compiled programs, cut down to what the analyses read."""

# As libtpu writes it: a loop of four turns without annotation, memory space 1 on the chip.
TPU = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%take (stack: f32[4,256,256], turn: s32[]) -> f32[256,256] {
  %stack = f32[4,256,256]{2,1,0:T(8,128)} parameter(0)
  %turn = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %cut = f32[1,256,256]{2,1,0:T(8,128)} dynamic-slice(%stack, %turn, %zero, %zero), \
dynamic_slice_sizes={1,256,256}
  ROOT %flat = f32[256,256]{1,0:T(8,128)} bitcast(%cut)
}

%put (stack: f32[4,256,256], row: f32[256,256], turn: s32[]) -> f32[4,256,256] {
  %stack.2 = f32[4,256,256]{2,1,0:T(8,128)} parameter(0)
  %row = f32[256,256]{1,0:T(8,128)} parameter(1)
  %turn.2 = s32[]{:T(128)} parameter(2)
  %zero.2 = s32[]{:T(128)} constant(0)
  %piece = f32[1,256,256]{2,1,0:T(8,128)} bitcast(%row)
  ROOT %put.1 = f32[4,256,256]{2,1,0:T(8,128)} dynamic-update-slice(%stack.2, %piece, %turn.2, \
%zero.2, %zero.2)
}

%body (carry: (s32[], f32[4,256,256])) -> (s32[], f32[4,256,256]) {
  %carry = (s32[]{:T(128)}, f32[4,256,256]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %all = f32[4,256,256]{2,1,0:T(8,128)} get-tuple-element(%carry), index=1
  %one = s32[]{:T(128)S(6)} constant(1)
  %next = s32[]{:T(128)S(6)} add(%i, %one)
  %row.1 = f32[256,256]{1,0:T(8,128)S(1)} fusion(%all, %i), kind=kLoop, calls=%take
  %sent = f32[256,256]{1,0:T(8,128)S(1)} all-reduce(%row.1), channel_id=1, \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}, to_apply=%add
  %new = f32[4,256,256]{2,1,0:T(8,128)} fusion(%all, %sent, %i), kind=kLoop, calls=%put
  ROOT %result = (s32[]{:T(128)}, f32[4,256,256]{2,1,0:T(8,128)}) tuple(%next, %new)
}

%condition (carry.2: (s32[], f32[4,256,256])) -> pred[] {
  %carry.2 = (s32[]{:T(128)}, f32[4,256,256]{2,1,0:T(8,128)}) parameter(0)
  %last = s32[]{:T(128)} constant(4)
  %turn.3 = s32[]{:T(128)} get-tuple-element(%carry.2), index=0
  ROOT %again = pred[]{:T(512)} compare(%turn.3, %last), direction=LT
}

ENTRY %main (state: f32[4,256,256], loose: bf16[1000]) -> (f32[4,256,256], bf16[8000]) {
  %state = f32[4,256,256]{2,1,0:T(8,128)} parameter(0)
  %loose = bf16[1000]{0:T(1024)(128)(2,1)} parameter(1)
  %begin = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, /*index=1*/f32[4,256,256]{2,1,0:T(8,128)}) tuple(%begin, %state)
  %loop = (s32[]{:T(128)}, f32[4,256,256]{2,1,0:T(8,128)}) while(%start), condition=%condition, \
body=%body
  %end = f32[4,256,256]{2,1,0:T(8,128)} get-tuple-element(%loop), index=1
  %begun = (bf16[1000]{0:T(1024)}, bf16[8000]{0:T(1024)}) all-gather-start(%loose), channel_id=2, \
replica_groups=[1,8]<=[8], dimensions={0}
  %whole = bf16[8000]{0:T(1024)} all-gather-done(%begun)
  ROOT %both = (f32[4,256,256]{2,1,0:T(8,128)}, bf16[8000]{0:T(1024)}) tuple(%end, %whole)
}
"""
