/**
 * Ticker MEGABYTES: holds that much of live objects, then says the time that
 * a restore takes by saying something at once, whenever it runs.
 */
public class Ticker {
    static Object[] live;

    public static void main(String[] args) throws Exception {
        int megabytes = Integer.parseInt(args[0]);
        live = new Object[megabytes * 1024];
        for (int i = 0; i < live.length; i++) {
            byte[] block = new byte[1008];
            block[i % 1008] = 1;
            live[i] = block;
        }
        for (int tick = 0; ; tick++) {
            System.out.println("tick " + tick + " " + live.length);
            System.out.flush();
            Thread.sleep(5);
        }
    }
}
